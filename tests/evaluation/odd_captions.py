"""Captions with what tokenizers disagree about, made by rule: the same list each time."""

import random

_SCENES = """a man in a {x} shirt|two dogs near the {x}|the {x} on the table|people waiting for {x}|a sign that reads {x}
  |{x} beside a parked car|a {x} flying over the beach|she is holding {x} and a cup|an old photo of {x}, taken at night
  |a bus with {x} on its side|{x}: a view from above|children playing with {x}|close up of {x} in a bowl|the cat isn't
  near {x}""".replace("\n", " ").split("|")
_PIECES = {
    "hyphen": ["black-and-white", "well-lit", "T-shirt", "x-ray", "mid-air", "cross-country", "one-way", "4-way", "F-16",
               "jack-o'-lantern", "hot-air", "A-frame", "semi-", "-ish", "7-Eleven", "merry-go-round", "co-op", "e-mail"],
    "quote": ['"STOP"', '"For Sale"', "'open'", "''quoted''", "“Welcome”", "‘hi’", '"Don\'t Walk"', "the dog's bowl",
              "dogs' bowls", "James' hat", "'60s", "the '90s", "5'10\"", "rock 'n' roll", "o'clock", "y'all", '""', "‚low‘"],
    "money": ["$5", "$1,000.50", "£3.99", "€20", "20€", "¥500", "50¢", "US$10", "$5-off", "5 $", "₹99", "10p", "$.99"],
    "abbreviation": ["Dr. Pepper", "Mt. Rushmore", "St. Louis", "the U.S. flag", "U.S.A.", "a.m.", "5 p.m.", "No. 9",
                     "Jr.", "etc.", "vs.", "e.g. cake", "i.e. tea", "D.C. metro", "Ave. A", "Inc.", "Ph.D.", "J. Smith",
                     "approx. ten", "ft. high", "Sgt. Pepper", "Washington, D.C.", "Co. store", "Mrs. Jones", "min. walk"],
    "unicode": ["café", "piñata", "naïve art", "Zürich", "jalapeño", "crème brûlée", "Tōkyō", "São Paulo", "Øresund",
                "東京", "привет", "½ cup", "20°", "20 °C", "5µm", "©2010", "®", "™ sign", "a–b", "a — b", "x² + y", "•",
                "×2", "€", "§5", "«oui»", "naïve", "ﬁsh", "²", "¿qué?", "¡hola!", "soft\u00adhyphen", "no\u00a0break"],
    "ellipsis": ["wait...", "...and more", "so....", "well . . .", "oh…", "hm..", "a...b", "end. . .", "?!", "!!!", "??", "!?"],
    "number": ["3.5", "1,234", "1,234.5", "10:30", "10:30am", "5pm", "24/7", "1/2", "3 1/2", "12-15", "1990s", "2nd", "3rd",
               "#1", "# 9", "100%", "50 %", "-5", "+1", ".22", "555-1234", "1.2.3", "4x4", "747", "12/25/2010", "3,4", "1.",
               "0.5-inch", "6'", "12\"", "2x", "No.1", "m2", "5k", "1st.", "20,000+"],
    "contraction": ["can't", "won't", "isn't", "it's", "they're", "I'm", "he'd", "we'll", "I've", "cannot", "gonna", "wanna",
                    "gotta", "'tis", "ain't", "don’t", "it’s", "shouldn't've", "DON'T", "let's", "dont", "who's", "ma'am",
                    "d'you", "lemme", "wouldn’t", "e'er", "o'er", "'em", "'cause", "how'd", "what're", "more'n"],
    "slash": ["and/or", "TV/VCR", "he/she", "w/", "w/o", "his / hers", "black/white/red", "//", "\\", "n/a", "a/c", "km/h",
              "c/o", "| bar |", "on/off-switch", "http://example.com/x", "www.site.org", "a@b.com", "file.jpg", "site.com"],
    "emoji": ["😀", "❤", "❤️", "☕ cup", "👍🏽", "🐶dog", "dog🐶", "★★★", "☺", ":)", ":-)", ";)", ":(", "<3", ":D", "=)", "^_^",
              "🇫🇷", "👨‍👩‍👧", "→", "✓", "♥ love", ":P", "8)"],
    "sign": ["(left)", "[sic]", "{x}", "(a (b))", "R&B", "AT&T", "B & B", "Q&A", "a&b", "@home", "#hashtag", "*bold*", "**",
             "_under_", "~5", "a ~ b", "5 < 6", "<b>", "a>b", "x=y", "1+1=2", "C++", "C#", "`code`", "a^b", "50%off", ";",
             "a;b", "a:b", "16:9", ":", "--", "---", "-", "a - b", "a -- b", "a--b", "&amp;", "&", "%", "a,b", "a ,b", ",",
             "mother-in-law's", "(555) 123-4567", "[1]", "(:", "no.", "a.b", "Mr", "end.Next", "end .Next", "end ."],
}
_ENDS = [".", ".", ".", "", "", "!", "?", " .", "...", ";", ","]


def captions(count: int = 2000, seed: int = 0) -> list[str]:
  """`count` captions; one piece in each, in some two, with the end and the case that captions have."""
  rng = random.Random(seed)
  kinds = sorted(_PIECES)
  made = []
  for i in range(count):
    pieces = rng.sample(_PIECES[kinds[i % len(kinds)]], 1) + rng.sample(_PIECES[rng.choice(kinds)], rng.random() < 0.3)
    text = rng.choice(_SCENES).strip().replace("{x}", " ".join(pieces))
    text = {0: text.upper(), 1: text.capitalize(), 2: text.capitalize()}.get(rng.randrange(8), text)
    made.append(" ".join(text.split(" ")) + rng.choice(_ENDS))
  return made
