"""The closed vocabulary the texts are built from: names, kinds of subject, filler parts."""

KINDS: tuple[str, ...] = ("station", "ship", "depot")

NAMES: tuple[str, ...] = tuple(
    "Lima Oslo Delta Tango Kilo Victor Sierra Romeo Juliet Quebec Bravo Echo Hotel India Mike Papa "
    "Zulu Yankee Uniform Foxtrot Cairo Quito Dakar Tunis Hanoi Seoul Kyoto Osaka Delhi Mumbai Paris "
    "Lyon Turin Milan Genoa Porto Lisbon Madrid Bilbao Malaga Dublin Cork Leeds York Derby Bath Dover "
    "Exeter Bergen Malmo Turku Riga Vilnius Warsaw Krakow Prague Vienna Graz Linz Basel Zurich Bonn "
    "Bremen Kiel Essen Ghent Bruges Ostend Nantes Brest Calais Amiens Toledo Cadiz Havana Bogota "
    "Caracas Lagos Accra Nairobi Harare Lusaka Perth Darwin Hobart Sydney".split()
)

LEADS: tuple[str, ...] = (
    "",
    "",
    "",
    "Note that ",
    "In short, ",
    "As written in the log, ",
    "For the record, ",
)

WHO: tuple[str, ...] = (
    "the old keeper", "a young clerk", "the night crew", "the pilot", "a tired driver", "the captain",
    "the baker", "a quiet visitor", "the engineer", "the owner of the shop", "a small dog", "the guard",
)  # fmt: skip
DID: tuple[str, ...] = (
    "waited", "walked slowly", "read a long letter", "looked at the map", "drank warm tea", "sang a song",
    "counted the boxes", "cleaned the windows", "told a story", "fed the birds", "painted a door",
    "lost a glove", "found an old lamp", "wrote a short note",
)  # fmt: skip
WHERE: tuple[str, ...] = (
    "near the bridge", "under the trees", "by the river", "in the garden", "on the hill",
    "behind the market", "at the gate", "in the kitchen", "along the wall", "beside the road",
)  # fmt: skip
WHEN: tuple[str, ...] = (
    "in the morning", "before noon", "after the rain", "at night", "all winter", "last week",
    "while the wind blew", "when the bell rang", "until it was dark", "every summer",
)  # fmt: skip
