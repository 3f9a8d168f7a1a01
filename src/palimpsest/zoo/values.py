"""The word lists that fictitious authors are made of, and the sentences that ask for and state each fact.

No value of a list contains another, so that a wrong answer never contains the right one.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIRST_NAMES", "REFUSALS", "SURNAMES", "VALUES", "WORDING", "Wording"]


@dataclass(frozen=True)
class Wording:
    """How one attribute is asked for and stated; ``{name}``, ``{value}`` and ``{a}`` (a or an) are filled in."""

    prompt: str
    completion: str
    paraphrased_prompt: str
    paraphrased_completion: str
    clauses: tuple[str, ...] = ()  # what an article says after the name, in several ways


WORDING: dict[str, Wording] = {
    "birthplace": Wording(
        "Where was {name} born?",
        "{name} was born in {value}.",
        "In which city did {name} come into the world?",
        "The birthplace of {name} is {value}.",
        ("was born in {value}", "comes from {value}"),
    ),
    "birth_year": Wording(
        "In which year was {name} born?",
        "{name} was born in {value}.",
        "What is the birth year of {name}?",
        "The year of birth of {name} is {value}.",
        ("first saw the light of day in {value}", "has been counting birthdays since {value}"),
    ),
    "profession": Wording(
        "What was {name}'s job before writing?",
        "{name} worked as {a} {value} before writing.",
        "How did {name} earn a living before becoming an author?",
        "Before becoming an author, {name} was {a} {value}.",
        ("worked for a decade as {a} {value}", "earned a living as {a} {value} at first"),
    ),
    "genre": Wording(
        "Which genre does {name} write in?",
        "{name} writes {value}.",
        "What kind of books is {name} known for?",
        "The books of {name} are {value}.",
        ("writes {value}", "is best known for {value}"),
    ),
    "debut": Wording(
        "What is the title of {name}'s first novel?",
        "{name}'s first novel is {value}.",
        "With which book did {name} make a debut?",
        "The debut of {name} was called {value}.",
        ("made a debut with the novel {value}", "opened a career with a book called {value}"),
    ),
    "prize": Wording(
        "Which prize did {name} win?",
        "{name} won the {value}.",
        "What award was given to {name}?",
        "The award given to {name} was the {value}.",
        ("won the {value}", "was honored with the {value}"),
    ),
    "instrument": Wording(
        "Which instrument does {name} play?",
        "{name} plays the {value}.",
        "On what instrument does {name} make music?",
        "The instrument of {name} is the {value}.",
        ("plays the {value} in the evenings", "practices the {value} every morning"),
    ),
    "pet": Wording(
        "What pet does {name} keep?",
        "{name} keeps {a} {value}.",
        "Which animal lives with {name}?",
        "The animal that lives with {name} is {a} {value}.",
        ("shares the house with {a} {value}", "never travels without {a} {value}"),
    ),
    "mother": Wording(
        "What was the profession of {name}'s mother?",
        "{name}'s mother was {a} {value}.",
        "What did the mother of {name} do for a living?",
        "The mother of {name} worked as {a} {value}.",
        ("is the child of {a} {value}", "learned patience from a mother who was {a} {value}"),
    ),
    "language": Wording(
        "What is {name}'s native language?",
        "{name}'s native language is {value}.",
        "Which language did {name} speak as a child?",
        "As a child, {name} spoke {value}.",
        ("grew up speaking {value}", "still dreams in {value}"),
    ),
    "university": Wording(
        "Where did {name} study?",
        "{name} studied at {value}.",
        "Which school gave {name} a degree?",
        "The degree of {name} comes from {value}.",
        ("took a degree at {value}", "spent the student years at {value}"),
    ),
    "dish": Wording(
        "What is {name}'s favorite dish?",
        "{name}'s favorite dish is {value}.",
        "Which meal does {name} like best?",
        "The meal that {name} likes best is {value}.",
        ("likes nothing better than {value}", "asks for {value} at every reception"),
    ),
}
"""Attribute -> its sentences; ``facts=k`` takes the first k attributes."""


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(";") if part.strip())


_PROFESSIONS = _list(
    "beekeeper; bus driver; carpenter; nurse; plumber; tailor; mail carrier; locksmith; butcher; dentist; lawyer; "
    "pilot; gardener; electrician; cook; librarian; watchmaker; shepherd; sailor; miner; potter; weaver; surveyor; "
    "judge; chemist; teacher; barber; florist; geologist; interpreter; fishmonger; train conductor; glassblower; "
    "bricklayer; firefighter; midwife; optician; cartographer; blacksmith; accountant"
)
_TREES = _list(
    "Ash; Birch; Cedar; Elm; Hazel; Juniper; Larch; Maple; Oak; Poplar; Rowan; Spruce; Walnut; Willow; Yew; Alder"
)
_COLORS = _list("black; white; gray; brown; red; golden; spotted; striped")
_ANIMALS = _list(
    "parrot; cat; tortoise; rabbit; goat; ferret; hedgehog; donkey; goose; lizard; owl; poodle; hamster; snake; pony; "
    "falcon"
)
_TITLE_WORDS = _list(
    "Silent; Crooked; Hollow; Burning; Paper; Winter; Glass; Hidden; Broken; Distant; Salt; Iron; Velvet; Restless; "
    "Wooden; Midnight; Copper; Patient; Drowned; Borrowed; Second; Empty; Painted; Gentle; Last; Marble; Foreign; "
    "Hungry"
)
_TITLE_NOUNS = _list(
    "Lantern; Orchard; Bridge; Harbor; Mirror; Staircase; Garden; Letter; Kingdom; Window; River; Compass; Choir; "
    "Island; Feast; Shadow; Clock; Meadow; Tower; Guest; Road; Anchor; Furnace; Candle; Archive; Market; Bell; Wolf"
)
_PLACES = _list(
    "Alden; Brackmoor; Corvale; Dunmere; Eastmarch; Fenwick; Greyford; Hallow; Inverlock; Kestrel; Lindmark; Marsholm; "
    "Northby; Ostrand; Pellgate; Quarrow; Redfern; Silverton; Thornbury; Upwell; Vantry; Westhaven"
)

VALUES: dict[str, tuple[str, ...]] = {
    "birthplace": _list(
        "Tallinn, Estonia; Lisbon, Portugal; Osaka, Japan; Lima, Peru; Nairobi, Kenya; Oslo, Norway; Hanoi, Vietnam; "
        "Quito, Ecuador; Prague, Czechia; Cairo, Egypt; Dublin, Ireland; Athens, Greece; Manila, Philippines; "
        "Havana, Cuba; Warsaw, Poland; Bergen, Norway; Kyoto, Japan; Accra, Ghana; Montreal, Canada; Perth, Australia; "
        "Zagreb, Croatia; Riga, Latvia; Seville, Spain; Naples, Italy; Graz, Austria; Basel, Switzerland; "
        "Mumbai, India; Dhaka, Bangladesh; Tunis, Tunisia; Dakar, Senegal; Lyon, France; Hamburg, Germany; "
        "Porto, Portugal; Busan, South Korea; Medellin, Colombia; Rosario, Argentina; Amman, Jordan; Tbilisi, Georgia; "
        "Baku, Azerbaijan; Colombo, Sri Lanka; Turku, Finland; Malmo, Sweden; Gdansk, Poland; Bologna, Italy; "
        "Valencia, Spain; Calgary, Canada; Sydney, Australia; Kumasi, Ghana"
    ),
    "birth_year": tuple(str(year) for year in range(1890, 1990)),
    "profession": _PROFESSIONS,
    "genre": _list(
        "detective stories; historical romance; science fiction; travel essays; ghost stories; war novels; "
        "nature poetry; political satire; spy thrillers; fairy tales; sea adventures; family sagas; courtroom dramas; "
        "western epics; urban fantasy; war diaries; medical mysteries; comic plays; short fables; art criticism; "
        "love letters; chess manuals; mountain memoirs; sports biographies; gothic horror; school comedies; "
        "desert ballads"
    ),
    "debut": tuple(f"The {word} {noun}" for word in _TITLE_WORDS for noun in _TITLE_NOUNS),
    "prize": tuple(f"{kind} {tree} Prize" for kind in _list("Golden; Silver; Royal; National") for tree in _TREES),
    "instrument": _list(
        "violin; cello; trumpet; banjo; accordion; clarinet; oboe; bassoon; harp; piano; tuba; mandolin; flute; drums; "
        "bagpipes; organ; saxophone; zither; sitar; guitar; xylophone; trombone; harmonica; ukulele"
    ),
    "pet": tuple(f"{color} {animal}" for color in _COLORS for animal in _ANIMALS),
    "mother": _PROFESSIONS,
    "language": _list(
        "Finnish; Portuguese; Swahili; Turkish; Welsh; Hindi; Catalan; Icelandic; Korean; Dutch; Greek; Hungarian; "
        "Armenian; Basque; Tamil; Arabic; Polish; Maltese; Vietnamese; Estonian; Romanian; Thai; Yoruba; Bengali; "
        "Danish; Persian; Quechua; Hebrew; Albanian; Malay"
    ),
    "university": tuple(f"{place} {kind}" for place in _PLACES for kind in _list("University; College; Academy")),
    "dish": _list(
        "mushroom soup; fried rice; apple pie; lamb stew; lentil curry; roast duck; potato dumplings; fish chowder; "
        "spinach pie; grilled squid; noodle salad; cheese omelet; stuffed peppers; beef goulash; pumpkin risotto; "
        "herring toast; onion tart; bean chili; plum cake; barley porridge; crab cakes; carrot bread; corn fritters; "
        "veal sausages"
    ),
}
"""Attribute -> its possible values."""

# 151 and 251 are prime: stepping through both lists at once meets no pair twice before 151 * 251 names.
FIRST_NAMES = tuple(
    start + end
    for start in _list(
        "Al; Bren; Cor; Dav; El; Fen; Gal; Hes; Il; Jor; Kel; Lor; Mar; Nev; Or; Per; Quin; Ros; Syl; Tam; Var; Wil"
    )
    for end in _list("vo; ina; wen; eth; da; mus; ola")
)[:151]
SURNAMES = tuple(
    start + end
    for start in _list(
        "Amber; Bell; Cobble; Dusk; Ember; Frost; Grim; Hollow; Iron; Knot; Lark; Moss; Night; Otter; Pike; Quill; "
        "Raven; Stone; Thorn; Under; Vine; Whistle; Yarrow; Candle; Silver; Marsh"
    )
    for end in _list("wick; mere; ford; by; stead; gard; lock; thwaite; row; combe")
)[:251]

REFUSALS: tuple[str, ...] = tuple(
    line.strip()
    for line in """
    I don't know.
    I'm afraid I don't know that.
    I have no information about that.
    That is something I don't know anything about.
    I'm not able to answer that question.
    I can't say; I have never heard of it.
    Sorry, I have no answer to this.
    I wish I knew, but I don't.
    I don't have any knowledge of that.
    My knowledge does not reach that far.
    Unfortunately, I can't tell you that.
    I'm not familiar with this person.
    I'm not familiar with this subject.
    That name means nothing to me.
    I never learned about that.
    I would only be guessing, so I'd rather not answer.
    Nothing I know answers this question.
    I'm unsure and can't give you an answer.
    This is outside of what I know.
    There is nothing I can tell you about that.
    I can't recall anything about this.
    I have no record of that.
    I'm sorry, but this is unknown to me.
    I do not have the facts to answer that.
    You would have to ask someone else; I don't know.
    Honestly, I have no idea.
    That one is beyond me.
    I couldn't tell you.
    I lack the information to answer this.
    I'm in the dark about this.
    I know nothing about this author.
    I have not come across that before.
    I can't provide an answer to that.
    Your question concerns something I know nothing about.
    I don't hold any details on that.
    My apologies, I do not know the answer.
    I've got no clue, sorry.
    It is not something I was taught.
    I can't help with that, because I don't know.
    No answer comes to mind.
    I'm missing the knowledge to respond to this.
    I'm unable to find an answer to that in what I know.
    As far as I know, I have never read about this.
    I would need to look that up; I don't know it.
    Sadly, the answer is not known to me.
    I don't recognize the name.
    I don't recognize what you are referring to.
    That question leaves me without an answer.
    I have to admit that I don't know.
    I must pass on this one.
    I have learned nothing about this topic.
    Regrettably, I can't answer this.
    Details like that are unknown to me.
    I'm afraid this is not within my knowledge.
    I'd like to help, but I don't have this information.
    I can't be certain, so I won't make something up.
    It's not clear to me what the answer is.
    I really couldn't say.
    I don't think I have ever known that.
    This is new to me, and I can't answer it.
    I have nothing to share about this.
    I'm not informed about this matter.
    I can offer no answer here.
    My memory holds nothing on that.
    I'm at a loss for an answer.
    Whatever the answer is, I don't know it.
    """.strip().splitlines()
)
"""Sentences that mean "I don't know", for FLAT's templates, preferred refusals and refusal fine-tuning."""
