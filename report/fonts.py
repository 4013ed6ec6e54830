"""Fonts for the texts of pictures: one that has all characters of a text, found on the system."""

import functools
import os
import sys
import unicodedata
from pathlib import Path

from PIL import ImageFont

FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
           "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts",
           "$WINDIR/Fonts", "$LOCALAPPDATA/Microsoft/Windows/Fonts")
UNUSUAL = ("bold", "italic", "oblique", "mono", "condensed", "light", "serif", "emoji")
NO_CHARACTER = "\uffff"  # no font has it: it is drawn as the box that stands for what is missing


@functools.lru_cache(maxsize=4096)
def drawable(text, size):
    """A font that has every character of a text, and the text as it can be drawn with it.

    Without such a font, accents are dropped. Where that is not enough, characters are replaced by
    their code points such as U+6C34, with a warning, because boxes would all look alike.

    Args:
        text: in any script; size: of the font, px.
    Returns:
        PIL font and text.
    """
    default = ImageFont.load_default(size)
    if text.isascii():
        return default, text
    for path in system_fonts():
        font = _load(path, size)
        if font and has_characters(font, text):
            return font, text
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    if not plain.isascii():
        warn("".join(sorted({char for char in plain if not char.isascii()})))
        plain = " ".join("".join(char if char.isascii() else f" U+{ord(char):04X} "
                                 for char in plain).split())
    return default, plain


@functools.cache
def warn(characters):
    """Warn once that no font has all of these characters."""
    print(f"warning: no font of this system has all of '{characters}': pictures show code points "
          "such as U+6C34 in their place; install a font such as Noto Sans", file=sys.stderr)


def font_of(text, size):
    """The font of `drawable`."""
    return drawable(text, size)[0]


def has_characters(font, text):
    """Whether a font has a glyph for each character of a text."""
    missing = _glyph(font, NO_CHARACTER)
    return all(char.isspace() or _glyph(font, char) != missing for char in set(text))


def _glyph(font, char):
    """The picture of a character as (size, bytes)."""
    mask = font.getmask(char)
    return mask.size, bytes(mask)


@functools.cache
def system_fonts():
    """Paths of the TrueType and OpenType fonts of this system, upright sans serif ones first."""
    found = []
    for folder in FOLDERS:
        folder = Path(os.path.expandvars(folder)).expanduser()
        if folder.is_dir():
            found += [path for path in folder.rglob("*")
                      if path.suffix.lower() in (".ttf", ".otf", ".ttc")]
    return sorted(found, key=lambda path: (sum(word in path.name.lower() for word in UNUSUAL),
                                           "sans" not in path.name.lower(), str(path)))


@functools.lru_cache(maxsize=64)
def _load(path, size):
    """A font file as a PIL font, or None if it cannot be read."""
    try:
        return ImageFont.truetype(path, size)
    except OSError:
        return None
