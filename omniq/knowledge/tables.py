"""Facts that most language models know: capitals, chemical elements, days and months."""

from __future__ import annotations

_CAPITALS = """
Afghanistan Kabul; Albania Tirana; Argentina Buenos Aires; Armenia Yerevan; Australia Canberra; Austria Vienna;
Azerbaijan Baku; Bangladesh Dhaka; Belarus Minsk; Belgium Brussels; Bulgaria Sofia; Cambodia Phnom Penh;
Canada Ottawa; Chile Santiago; China Beijing; Colombia Bogota; Croatia Zagreb; Cuba Havana; Denmark Copenhagen;
Ecuador Quito; Egypt Cairo; Estonia Tallinn; Ethiopia Addis Ababa; Finland Helsinki; France Paris; Germany Berlin;
Ghana Accra; Greece Athens; Hungary Budapest; Iceland Reykjavik; India New Delhi; Indonesia Jakarta; Iran Tehran;
Iraq Baghdad; Ireland Dublin; Italy Rome; Jamaica Kingston; Japan Tokyo; Jordan Amman; Kenya Nairobi; Latvia Riga;
Lebanon Beirut; Libya Tripoli; Lithuania Vilnius; Malaysia Kuala Lumpur; Morocco Rabat; Nepal Kathmandu; Norway Oslo;
Pakistan Islamabad; Peru Lima; Poland Warsaw; Portugal Lisbon; Romania Bucharest; Russia Moscow; Serbia Belgrade;
Slovenia Ljubljana; Spain Madrid; Sudan Khartoum; Sweden Stockholm; Syria Damascus; Thailand Bangkok; Turkey Ankara;
Ukraine Kyiv; Uruguay Montevideo; Venezuela Caracas; Vietnam Hanoi; Zambia Lusaka; Zimbabwe Harare
"""

CAPITALS: tuple[tuple[str, str], ...] = tuple(
    tuple(entry.split(maxsplit=1)) for entry in _CAPITALS.replace("\n", " ").split(";")
)
"""(country, capital). Left out are capitals named after their country and countries with more than one."""

_ELEMENTS = """
hydrogen H helium He lithium Li beryllium Be boron B carbon C nitrogen N oxygen O fluorine F neon Ne sodium Na
magnesium Mg aluminium Al silicon Si phosphorus P sulfur S chlorine Cl argon Ar potassium K calcium Ca scandium Sc
titanium Ti vanadium V chromium Cr manganese Mn iron Fe cobalt Co nickel Ni copper Cu zinc Zn gallium Ga germanium Ge
arsenic As selenium Se bromine Br krypton Kr rubidium Rb strontium Sr yttrium Y zirconium Zr niobium Nb molybdenum Mo
technetium Tc ruthenium Ru rhodium Rh palladium Pd silver Ag cadmium Cd indium In tin Sn antimony Sb tellurium Te
iodine I xenon Xe caesium Cs barium Ba lanthanum La cerium Ce praseodymium Pr neodymium Nd promethium Pm samarium Sm
europium Eu gadolinium Gd terbium Tb dysprosium Dy holmium Ho erbium Er thulium Tm ytterbium Yb lutetium Lu hafnium Hf
tantalum Ta tungsten W rhenium Re osmium Os iridium Ir platinum Pt gold Au mercury Hg thallium Tl lead Pb bismuth Bi
polonium Po astatine At radon Rn francium Fr radium Ra actinium Ac thorium Th protactinium Pa uranium U neptunium Np
plutonium Pu americium Am curium Cm berkelium Bk californium Cf einsteinium Es fermium Fm mendelevium Md nobelium No
lawrencium Lr rutherfordium Rf dubnium Db seaborgium Sg bohrium Bh hassium Hs meitnerium Mt darmstadtium Ds
roentgenium Rg copernicium Cn nihonium Nh flerovium Fl moscovium Mc livermorium Lv tennessine Ts oganesson Og
"""

_WORDS = _ELEMENTS.split()
ELEMENTS: tuple[tuple[str, str, int], ...] = tuple(
    (name, symbol, number) for number, (name, symbol) in enumerate(zip(_WORDS[::2], _WORDS[1::2], strict=True), 1)
)
"""(name, symbol, atomic number), by number."""

WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
YEAR = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December")  # fmt: skip
