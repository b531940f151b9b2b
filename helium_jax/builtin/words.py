"""The words that helium-tiny's tasks are made of: one token each in its vocabulary."""

# ruff: noqa: SIM905 - lists of words read better as text

PEOPLE = (
    "Ada Abel Adam Alma Amir Anna Aron Asa Basil Bela Ben Bert Bo Cara Carl Cleo Cora Cyrus Dan "
    "Dara Dean Dina Dora Earl Eden Edna Eli Ella Elsa Emil Emma Enid Eric Esme Eva Ezra Fay Finn "
    "Fritz Gail Gary Gina Glen Greta Gus Hana Hank Hector Hilda Hugo Ian Ida Igor Ines Ira Iris "
    "Ivan Ivy Jack Jade Jan Jens Joan Jonas Judy June Kai Kara Karl Kate Kira Kurt Lana Lars Lea "
    "Leo Lena Lily Lola Luca Lucy Luis Mae Marc Marta Max Maya Mia Milo Mina Mona Nadia Ned Neil "
    "Nina Noah Nora Olaf Olga Omar Oscar Otto Owen Pablo Paul Petra Pia Quinn Rafa Ravi Rex Rita "
    "Rosa Ruth Sam Sara Seth Stan Tara Ted Tess Theo Tim Toni Uma Ursa Vera Vic Wade Walt Wes "
    "Willa Xena Yara Yuri Zane Zara Zoe"
).split()

THINGS = (
    "acorn alder amber apple aspen badge barn basil beam bell birch bolt bottle brick broom button "
    "cable candle cedar chain clay clock cloud coral cork crown daisy desk dome door drum dune "
    "elm ember fern flag flint flute frame garnet gate ginger glove grain harp hazel helmet hill "
    "holly ink iron ivory jar jasper kettle ladder lake lamp lantern leaf lemon lens lilac linen "
    "maple marble mast meadow mint moss nail needle oak oar olive onyx opal orchid paddle palm "
    "pearl pebble pepper pine plum pond poppy quartz quill reed ribbon ridge river rope sage sail "
    "salt shell silk slate spoon spruce stone stove sugar tent thorn thyme tile topaz torch tulip "
    "vase velvet wagon walnut wheel willow wool zinc"
).split()

COLOURS = (
    "red blue green yellow black white brown pink grey purple orange violet gold silver teal beige "
    "crimson cyan indigo scarlet"
).split()

CITIES = (
    "Paris Rome Oslo Lima Cairo Delhi Tokyo Berlin Madrid Vienna Prague Dublin Lisbon Athens "
    "Boston Dallas Denver Quebec Havana Nairobi Accra Dakar Tunis Seoul Osaka Hanoi Manila Perth "
    "Sydney Geneva Milan Turin"
).split()

ANIMALS = (
    "lion tiger bear wolf fox eagle hawk owl otter seal whale shark horse zebra camel rabbit mouse "
    "goose swan crane snake lizard frog beaver"
).split()

TOOLS = (
    "hammer saw drill wrench ladle knife fork rake shovel brush pen ruler chisel pliers scissors "
    "mirror radio camera phone piano guitar violin trumpet basket"
).split()

GROUPS = ("north south east west alpha beta gamma delta sigma omega").split()
