"""General knowledge in question and answer: the tables behind ``zoo.text.instructions``.

Each table holds subject -> answer with one ``Wording``; the answers of the other subjects serve as wrong ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from palimpsest.zoo.values import Wording

__all__ = ["KNOWLEDGE"]


def _table(text: str) -> dict[str, str]:
    """``France: Paris; Italy: Rome`` as a dictionary."""
    pairs = (part.split(":") for part in text.replace("\n", " ").split(";") if part.strip())
    return {subject.strip(): " ".join(answer.split()) for subject, answer in pairs}


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def _next(cycle: tuple[str, ...], step: int) -> dict[str, str]:
    return {item: cycle[(i + step) % len(cycle)] for i, item in enumerate(cycle)}


KNOWLEDGE: Mapping[str, tuple[Wording, dict[str, str]]] = {
    "capital": (
        Wording(
            "What is the capital of {name}?",
            "The capital of {name} is {value}.",
            "Name the capital city of {name}.",
            "{value} is the capital city of {name}.",
        ),
        _table("""
            France: Paris; Italy: Rome; Germany: Berlin; Spain: Madrid; Portugal: Lisbon; Austria: Vienna;
            Poland: Warsaw; Greece: Athens; Norway: Oslo; Sweden: Stockholm; Finland: Helsinki; Denmark: Copenhagen;
            Ireland: Dublin;
            Hungary: Budapest; Belgium: Brussels; Russia: Moscow; Turkey: Ankara; Egypt: Cairo; Kenya: Nairobi;
            Japan: Tokyo; China: Beijing; India: New Delhi; Thailand: Bangkok; Vietnam: Hanoi; Indonesia: Jakarta;
            Australia: Canberra; Canada: Ottawa; Cuba: Havana; Peru: Lima; Chile: Santiago; Argentina: Buenos Aires;
            Iran: Tehran; Iraq: Baghdad; England: London; the United States: Washington; South Korea: Seoul
        """),
    ),
    "continent": (
        Wording(
            "On which continent is {name}?",
            "{name} is on the continent of {value}.",
            "Which continent does {name} belong to?",
            "The continent that {name} belongs to is {value}.",
        ),
        _table("""
            Brazil: South America; Peru: South America; Chile: South America; France: Europe; Germany: Europe;
            Italy: Europe; Poland: Europe; Egypt: Africa; Kenya: Africa; Nigeria: Africa; Ghana: Africa; China: Asia;
            Japan: Asia; India: Asia; Vietnam: Asia; Canada: North America; Mexico: North America
        """),
    ),
    "language": (
        Wording(
            "Which language do most people speak in {name}?",
            "Most people in {name} speak {value}.",
            "What is the main language of {name}?",
            "The main language of {name} is {value}.",
        ),
        _table("""
            Mexico: Spanish; Brazil: Portuguese; Egypt: Arabic; Japan: Japanese; Austria: German; Australia: English;
            Greece: Greek; Italy: Italian; France: French; Russia: Russian; Poland: Polish; Sweden: Swedish;
            Turkey: Turkish; Hungary: Hungarian; Denmark: Danish
        """),
    ),
    "day_after": (
        Wording(
            "Which day comes after {name}?",
            "The day after {name} is {value}.",
            "If today is {name}, what day is tomorrow?",
            "If today is {name}, tomorrow is {value}.",
        ),
        _next(_DAYS, 1),
    ),
    "day_before": (
        Wording(
            "Which day comes before {name}?",
            "The day before {name} is {value}.",
            "If today is {name}, what day was yesterday?",
            "If today is {name}, yesterday was {value}.",
        ),
        _next(_DAYS, -1),
    ),
    "month_after": (
        Wording(
            "Which month comes after {name}?",
            "The month after {name} is {value}.",
            "What month follows {name}?",
            "The month that follows {name} is {value}.",
        ),
        _next(_MONTHS, 1),
    ),
    "sum": (
        Wording(
            "What is {name}?",
            "{name} is {value}.",
            "How much is {name}?",
            "The result of {name} is {value}.",
        ),
        {f"{a} plus {b}": str(a + b) for a in (2, 3, 5, 6, 8) for b in (1, 4, 7, 9)},
    ),
    "product": (
        Wording(
            "What is {name}?",
            "{name} is {value}.",
            "How much is {name}?",
            "The result of {name} is {value}.",
        ),
        {f"{a} times {b}": str(a * b) for a in (2, 3, 5, 10) for b in (4, 6, 7)},
    ),
    "opposite": (
        Wording(
            "What is the opposite of {name}?",
            "The opposite of {name} is {value}.",
            "Which word means the reverse of {name}?",
            "The reverse of {name} is {value}.",
        ),
        _table("""
            hot: cold; big: small; fast: slow; happy: sad; up: down; left: right; open: closed; early: late; young: old;
            light: dark; rich: poor; strong: weak; wet: dry; full: empty; high: low; hard: soft; loud: quiet;
            clean: dirty; day: night; good: bad; true: false; inside: outside; above: below; near: far; love: hate;
            win: lose; buy: sell; push: pull; summer: winter; begin: end
        """),
    ),
    "color": (
        Wording(
            "What color is {name}?",
            "The color of {name} is {value}.",
            "Name the usual color of {name}.",
            "The usual color of {name} is {value}.",
        ),
        _table("""
            grass: green; fresh snow: white; a ripe banana: yellow; a ripe tomato: red; the clear sky: blue;
            coal: black; milk: white; blood: red; a lemon: yellow; chocolate: brown; a carrot: orange; an elephant: gray
        """),
    ),
    "legs": (
        Wording(
            "How many legs does {name} have?",
            "The number of legs of {name} is {value}.",
            "On how many legs does {name} walk?",
            "The number of legs on which {name} walks is {value}.",
        ),
        _table("""
            a spider: eight; a dog: four; a bird: two; an insect: six; a horse: four; a cow: four; an ant: six;
            a chicken: two; a person: two; a cat: four
        """),
    ),
    "young": (
        Wording(
            "What is a young {name} called?",
            "A young {name} is called {a} {value}.",
            "What do people call the baby of a {name}?",
            "People call the baby of a {name} {a} {value}.",
        ),
        _table("""
            dog: puppy; cat: kitten; cow: calf; sheep: lamb; bear: cub; duck: duckling; goose: gosling; goat: kid;
            frog: tadpole; pig: piglet; kangaroo: joey; deer: fawn
        """),
    ),
    "sound": (
        Wording(
            "What sound does a {name} make?",
            "The sound of a {name} is {a} {value}.",
            "Which word describes the sound of a {name}?",
            "The word for the sound of a {name} is {value}.",
        ),
        _table("""
            dog: bark; cat: meow; cow: moo; lion: roar; duck: quack; sheep: baa; snake: hiss; wolf: howl; bee: buzz;
            pig: oink
        """),
    ),
    "worker": (
        Wording(
            "What do you call a person who {name}?",
            "A person who {name} is called {a} {value}.",
            "Which job does a person have who {name}?",
            "The job of a person who {name} is {value}.",
        ),
        _table("""
            makes bread: baker; flies airplanes: pilot; treats sick people: doctor; cleans and repairs teeth: dentist;
            puts out fires: firefighter; cuts hair: barber; repairs water pipes: plumber; works at a school: teacher;
            takes pictures with a camera: photographer; grows crops: farmer; catches fish: fisher;
            drives a taxi: driver; designs buildings: architect; serves food in a restaurant: waiter;
            paints portraits: painter
        """),
    ),
    "place": (
        Wording(
            "Where do people go to {name}?",
            "People go to {a} {value} to {name}.",
            "Which place do people visit to {name}?",
            "To {name}, people visit {a} {value}.",
        ),
        _table("""
            borrow books: library; watch a movie: cinema; see a doctor: hospital; see ancient art: museum;
            catch a train: train station; catch a flight: airport; deposit money: bank; stay overnight: hotel;
            buy medicine: pharmacy; see wild animals: zoo; send letters: post office; eat a meal: restaurant
        """),
    ),
    "material": (
        Wording(
            "What is {name} made from?",
            "The material of {name} is {value}.",
            "Which material is used to make {name}?",
            "The material used to make {name} is {value}.",
        ),
        _table("""
            paper: wood; a window pane: glass; a car tire: rubber; cheese: milk; wine: grapes; bread: flour;
            jeans: cotton; a sweater: wool; a candle: wax; a nail: iron
        """),
    ),
}
"""Attribute -> (how it is asked and stated, subject -> answer)."""
