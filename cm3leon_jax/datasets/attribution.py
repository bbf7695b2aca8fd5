"""Who drew the pictures, and under which licence: for the README, the dataset card and the report."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Attribution:
  """One set, as its package's info.json states it."""

  style: str
  title: str
  author: str
  url: str
  license: str  # SPDX id
  license_title: str
  license_url: str

  def line(self) -> str:
    """One sentence of attribution."""
    return f"{self.title} by {self.author} ({self.url}), {self.license_title} ({self.license_url})"


_NOTO = ("Google Inc", "https://github.com/googlefonts/noto-emoji", "Apache-2.0", "Apache 2.0",
         "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE")

ATTRIBUTION: dict[str, Attribution] = {x.style: x for x in (
    Attribution("noto", "Noto Emoji", *_NOTO),
    Attribution("noto-v1", "Noto Emoji (v1)", *_NOTO),
    Attribution("twemoji", "Twitter Emoji", "Twitter", "https://github.com/jdecked/twemoji", "CC-BY-4.0", "CC BY 4.0",
                "https://creativecommons.org/licenses/by/4.0/"),
    Attribution("openmoji", "OpenMoji", "OpenMoji", "https://github.com/hfg-gmuend/openmoji", "CC-BY-SA-4.0",
                "CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
    Attribution("emojione", "Emoji One (Colored)", "Emoji One", "https://github.com/EmojiTwo/emojitwo", "CC-BY-4.0",
                "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    Attribution("fluent-emoji-flat", "Fluent Emoji Flat", "Microsoft Corporation",
                "https://github.com/microsoft/fluentui-emoji", "MIT", "MIT",
                "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE"),
    Attribution("fxemoji", "Firefox OS Emoji", "Mozilla", "https://github.com/mozilla/fxemoji", "Apache-2.0",
                "Apache 2.0", "https://mozilla.github.io/fxemoji/LICENSE.md"),
)}
