"""The words biographies are made of: invented names of people, places, universities and employers, and majors.

No word of a person's name occurs in a value, and no value is part of another, so that neither gives the other away.
"""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


FIRST_NAMES = words(
    """
    Adela Alaric Albin Alma Amara Anders Anselm Ariadne Arlo Astrid Aurel Bastian Beatrix Benno Berit Bram Brisa Calla
    Caspar Celia Cormac Cosima Dagmar Dario Delphine Desmond Dorian Edda Eleni Elio Elsbeth Emeric Enzo Esme Fabian
    Farah Felix Fenna Fiora Florian Freya Gareth Gemma Gideon Greta Gunnar Hadley Hana Harriet Hector Henrik Hilda Idris
    Ilse Imogen Ines Ingrid Isolde Ivo Jasper Jolanda Jonas Juno Kaia Kamil Keiran Klara Lars Leander Leonie Linus
    Lorena Lucian Ludo Maeve Magnus Mairi Malik Marcel Marisol Mathilda Mika Milo Mirela Nadia Nerys Niamh Nico Noemi
    Odette Olaf Oona Orla Oskar Otto Palmira Paloma Pascal Perrin Petra Quentin Rafaela Ragnar Remy Renata Roderick
    Romy Rosalind Rufus Sabine Samira Selma Signe Silvan Soren Stellan Sunniva Tamsin Tancred Thea Tobias Ulrike Vesna
    Viggo Wanda Wilmer Xenia Yannick Yvette Zelda Zoltan
    """
)

MIDDLE_NAMES = words(
    """
    Abel Agnes Alban Ambrose Avery Basil Blythe Briar Cedric Clement Corin Cyrus Dale Damian Daphne Edgar Edith Elias
    Ellis Emil Estelle Eugene Fay Fergus Finn Flora Gale Gilbert Giles Grace Guy Hazel Hollis Hugo Iris Isaac Ivy Jade
    Joel Jude Jess Justus Keane Laurel Leigh Linden Lionel Lyle Mabel Maren Merle Miles Morgan Myra Nell Noel Nora
    Olive Opal Oren Pearl Philo Quill Rae Reeve Rhys Robin Roland Rory Ruth Sage Shea Silas Skye Tate Thaddeus Tess
    Una Uriel Vale Vera Vivian Wade Wren Zane
    """
)

LAST_NAMES = words(
    """
    Abernethy Ackland Alderman Amberg Annesley Arkwright Aspinall Attwater Babington Bancroft Barnaby Beaumaris
    Bellweather Bickerton Blackadder Blomqvist Bonneville Bosanquet Brackenbury Bramwell Broadribb Brunsdon Buchholz
    Calloway Carmody Castellan Cavendish Chadbourne Chilcott Clutterbuck Colquhoun Coppola Corrigan Cotterill Crabtree
    Cruikshank Culpepper Dalrymple Danforth Dashwood Delacroix Dennehy Devereux Dinsmore Drinkwater Dubrovsky Dunmore
    Eastlake Edelstein Eisenhart Ellingsen Entwistle Everdene Fairweather Falkenrath Farquhar Featherstone Fenwick
    Fitzalan
    Fjeldstad Fontaine Forsythe Frobisher Galbraith Garside Gellhorn Gillespie Glanville Goldsworthy Gravenor Greatorex
    Grimaldi Gulliver Hackett Halvorsen Hammersley Hargreaves Haverstock Heatherington Hepworth Hillyard Holbrook
    Horsfall Huddleston Illingworth Ingoldsby Jankowski Jessop Jorgensen Kavanagh Kellaway Kilbride Kingsnorth
    Kirkbride Kowalczyk Lachlan Langstaff Larkspur Lattimer Leatherbarrow Lindqvist Lockhart Lovelace Lundgren Maddox
    Mainwaring Malmberg Marchbanks Markovic Massingham Mayhew Melville Merriweather Middlemas Molyneux Montague
    Mountjoy Mulcahy Nakagawa Nettlefold Nightingale Norbury Nystrom Oberholt Okonjo Oldcastle Ormsby Osterman
    Paddock Pagnell Papadakis Partridge Pemberton Pennyfeather Pettigrew Pickersgill Pomeroy Prendergast Quarrington
    Quigley Radcliffe Ravenscroft Redgrave Renshaw Rosenqvist Rotheram Rutherford Sandoval Satterthwaite Scholes
    Seabrook Sedgwick Shackleton Silverwood Skelton Somerville Stapleton Stenhouse Strickland Swinburne Tattersall
    Tennant Thackeray Thistlewood Tolliver Trelawney Trevelyan Turnbull Underhill Urquhart Vandermeer Vasquez Villiers
    Wainwright Wakefield Warburton Weatherby Wetherall Whitlock Wigglesworth Winterbourne Woodhouse Wolstenholme
    Yarborough Yellowlees Zimmerman
    """
)

BIRTH_CITIES = words(
    """
    Almsgate Arrowmouth Aldenvik Barrowfen Belmarsh Birchaven Bluewater Caldermoor Candlewick Cinderford Coldbrook
    Crowhaven Dapplemere Deepwell Driftholm Dunlarch Eaglescar Eastmarch Elmsworth Emberton Fallowdale Fernhollow
    Foxgrove Frostgate Glassport Goldenreach Greywater Hartsmouth Hawkridge Heathermoor Ironbridge Ivoryhaven Jadeport
    Kelpstrand Kestrelton Lakemere Lanternhill Larchmont Mapleford Millstead Mistvale Moonridge Northwick Oakhampton
    Otterburn Pinecrest Quarryton Ravensholt Redwater Rookhaven Saltmarsh Silvergate Starling Stonemere Summerfield
    Thornbury Tidewell Umberley Violetta Westerby
    """
)

WORK_CITIES = words(
    """
    Ashkeld Brennock Carrowby Dravenport Eldermoot Farrowick Gallenstadt Hollandra Istrava Jorvenna Kaldreth Lunaport
    Morvale Nethercombe Ostrander Penhallow Quintara Rosmarin Selbourne Tarnwick Ulverdale Valmorra Wexcombe Yarrowgate
    Zephyria Bellavoir Cranmere Dornhaven Evenlode Fyrkat Grimstad Hollowmouth Inverlune Kirkwall Lindholm Marrakay
    Novagrad Orrinsay Portreath Rivermeet
    """
)

UNIVERSITIES = (
    *(
        f"{name} University"
        for name in words(
            """
        Abelmarle Brisendale Corvaine Drummoyne Esterhaz Falconry Glenorchy Highmoor Ilminster Jessamine Kingsreach
        Lavenham Mirabel Northgale Ombersley Pellinore Queensmere Rivendale Saltire Tolvane Ulsterra Vermilion Wolfram
        Xanthe Ysolde Zellerbach Arborfield Brightsea Clovelly Dovecote
            """
        )
    ),
    *(
        f"{name} College"
        for name in words(
            """
        Amberley Blackfriar Chanticleer Dunwoody Eversholt Foxglove Gryphon Hawthorn Inkpen Juniper Knightley Lodestar
        Meridian Nonesuch Orchardleigh
            """
        )
    ),
    *(
        f"{name} Institute"
        for name in words(
            """
        Aldebaran Bellatrix Capella Deneb Electra Fomalhaut Gemini Halcyon Icarus Juvenal Kepler Lyra Mimosa Novara
        Perseus
            """
        )
    ),
)

MAJORS = words(
    """
    Accounting Acoustics Agronomy Anthropology Archaeology Architecture Astronomy Botany Cartography Ceramics Chemistry
    Choreography Criminology Dentistry Dramaturgy Ecology Economics Entomology Epidemiology Ethics Filmmaking Finance
    Forestry Genetics Geology Glaciology Hydrology Immunology Journalism Kinesiology Linguistics Logistics Marketing
    Mathematics Meteorology Midwifery Mineralogy Musicology Neurology Nursing Nutrition Oceanography Optometry
    Palaeontology Pedagogy Pharmacy Philosophy Photography Physics Psychology Robotics Sculpture Seismology Semiotics
    Sociology Statistics Surveying Theology Typography Zoology
    """
)

EMPLOYERS = (
    "Anvil Freight", "Argosy Shipping", "Bantam Foods", "Beacon Insurance", "Bluebell Dairies", "Bramble Software",
    "Cascade Power", "Cobalt Mining", "Copperleaf Bank", "Crestline Airways", "Cygnet Press", "Dynamo Motors",
    "Eastwind Travel", "Echo Telecom", "Everglow Lighting", "Falcon Couriers", "Fathom Instruments", "Firebrand Media",
    "Flintlock Security", "Gannet Fisheries", "Gossamer Textiles", "Granite Construction", "Greenlane Transport",
    "Harbinger Games", "Harvest Grain", "Hearthstone Realty", "Helix Laboratories", "Horizon Solar", "Ibex Outfitters",
    "Indigo Paints", "Jackdaw Records", "Jubilee Hotels", "Keystone Steel", "Kingfisher Boats", "Lattice Networks",
    "Longbow Aerospace", "Magpie Recycling", "Mandolin Pianos", "Marigold Cosmetics", "Monsoon Umbrellas",
    "Nimbus Weather", "Nutmeg Catering", "Obelisk Publishing", "Orchid Perfumes", "Osprey Optics", "Paragon Elevators",
    "Pebble Toys", "Pinnacle Cranes", "Quicksilver Printing", "Ramrod Railways", "Saffron Spices", "Sandpiper Cruises",
    "Sextant Maps", "Tangram Furniture", "Thunderbolt Batteries", "Topaz Jewellers", "Trellis Gardens",
    "Verdant Nurseries", "Whirligig Bicycles", "Zenith Clocks",
)  # fmt: skip

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
YEARS, DAYS = range(1930, 2010), range(1, 29)
