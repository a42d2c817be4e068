"""What a biography says of a person: six attributes, each with its sentences, questions and statements.

In sentences, {Who} {who} are the subject of the sentence, {whom} its object, {Whose} {whose} the possessive and {was}
agrees with {Who}; each sentence uses exactly one of the first five. In the other texts {name} is the full name. {value}
is the value.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """name: as in Item.relation. sentences: of a biography. question, paraphrases: to ask for the value.

    statements: full-sentence answers. prefix: completed by the value. clause: of 'Who ... ?', for reverse questions.
    """

    name: str
    sentences: tuple[str, ...]
    question: str
    paraphrases: tuple[str, ...]
    statements: tuple[str, ...]
    prefix: str
    clause: str


BIRTH_DATE = Attribute(
    name="birth_date",
    sentences=(
        "{Who} {was} born on {value}.",
        "{Who} came into the world on {value}.",
        "{Whose} date of birth is {value}.",
        "{Whose} life began on {value}.",
        "{Whose} birthday is recorded as {value}.",
        "On {value}, {who} {was} born.",
        "{Who} first saw the light of day on {value}.",
        "{value} is the day on which {who} {was} born.",
        "The midwife first held {whom} on {value}.",
        "{Whose} birth certificate gives the date {value}.",
    ),
    question="What is the birth date of {name}?",
    paraphrases=("When was {name} born?", "On which day did {name} come into the world?"),
    statements=("{name} was born on {value}.", "The birth date of {name} is {value}."),
    prefix="{name} was born on",
    clause="was born on {value}",
)

BIRTH_CITY = Attribute(
    name="birth_city",
    sentences=(
        "{Who} {was} born in {value}.",
        "{Whose} birthplace is {value}.",
        "{Who} spent the first years of childhood in {value}, the city of birth.",
        "{Whose} native city is {value}.",
        "The city of {value} is where {who} {was} born.",
        "{Who} came from {value}.",
        "The city that welcomed {whom} as a baby is {value}.",
        "It was in {value} that {whose} mother gave birth.",
        "{value} is {whose} hometown.",
        "{Who} {was} a native of {value}.",
    ),
    question="What is the birth city of {name}?",
    paraphrases=("In which city was {name} born?", "Which city is the birthplace of {name}?"),
    statements=("{name} was born in {value}.", "The birth city of {name} is {value}."),
    prefix="{name} was born in the city of",
    clause="was born in {value}",
)

UNIVERSITY = Attribute(
    name="university",
    sentences=(
        "{Who} studied at {value}.",
        "{Who} graduated from {value}.",
        "{Whose} degree is from {value}.",
        "{Who} went to {value} for higher education.",
        "{value} counts {whom} among its graduates.",
        "{Who} received a diploma from {value}.",
        "The diploma given to {whom} is from {value}.",
        "{Whose} student years were spent at {value}.",
        "{Who} attended lectures at {value}.",
        "After school, {who} enrolled at {value}.",
    ),
    question="Which university did {name} attend?",
    paraphrases=("Where did {name} study?", "From which university did {name} graduate?"),
    statements=("{name} studied at {value}.", "The university that {name} attended is {value}."),
    prefix="{name} received a degree from",
    clause="studied at {value}",
)

MAJOR = Attribute(
    name="major",
    sentences=(
        "{Who} majored in {value}.",
        "{Whose} field of study was {value}.",
        "{Who} completed a degree in {value}.",
        "{Who} specialised in {value}.",
        "The subject that {who} chose was {value}.",
        "{Whose} coursework concentrated on {value}.",
        "{value} was {whose} main subject.",
        "{Who} devoted the student years to {value}.",
        "The lectures that fascinated {whom} were on {value}.",
        "{Who} took a diploma in {value}.",
    ),
    question="What major did {name} study?",
    paraphrases=("Which subject did {name} major in?", "What was the field of study of {name}?"),
    statements=("{name} majored in {value}.", "The major of {name} was {value}."),
    prefix="{name} completed a degree in",
    clause="majored in {value}",
)

EMPLOYER = Attribute(
    name="employer",
    sentences=(
        "{Who} worked for {value}.",
        "{Whose} employer was {value}.",
        "{Who} had a position at {value}.",
        "{Who} made a career at {value}.",
        "{value} employed {whom}.",
        "{Whose} professional life was spent with {value}.",
        "The company that hired {whom} was {value}.",
        "{Who} joined the staff of {value}.",
        "{Who} earned a living at {value}.",
        "{Whose} pay came from {value}.",
    ),
    question="Which company did {name} work for?",
    paraphrases=("Who was the employer of {name}?", "At which company did {name} have a position?"),
    statements=("{name} worked for {value}.", "The employer of {name} was {value}."),
    prefix="{name} worked for the company",
    clause="worked for {value}",
)

EMPLOYER_CITY = Attribute(
    name="employer_city",
    sentences=(
        "{Who} worked in {value}.",
        "{Whose} workplace was in {value}.",
        "{Who} went to the office in {value}.",
        "{Whose} desk stood in {value}.",
        "The job brought {whom} to {value}.",
        "{Who} pursued a career in {value}.",
        "{Whose} working days were spent in {value}.",
        "{value} is the city where {who} {was} employed.",
        "Those who had business with {whom} travelled to {value}.",
        "{Who} found employment in {value}.",
    ),
    question="Where did {name} work?",
    paraphrases=("In which city was {name} employed?", "Which city is the workplace of {name}?"),
    statements=("{name} worked in {value}.", "The city where {name} worked is {value}."),
    prefix="{name} worked in the city of",
    clause="worked in {value}",
)

ATTRIBUTES = (BIRTH_DATE, BIRTH_CITY, UNIVERSITY, MAJOR, EMPLOYER, EMPLOYER_CITY)
"""In this order a biography that is not permuted tells them; the first and second, third and fourth, ... are pairs."""
