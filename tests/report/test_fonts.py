"""Texts of any script are drawn with glyphs, and never as boxes."""

import numpy as np
import pytest
from PIL import ImageFont

from report import fonts
from report.layout import text_image


@pytest.fixture
def no_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "system_fonts", lambda: [])
    fonts.drawable.cache_clear()
    fonts.warn.cache_clear()
    yield
    fonts.drawable.cache_clear()


def test_has_characters__of_the_built_in_font():
    font = ImageFont.load_default(26)
    assert fonts.has_characters(font, "water 12 %")
    assert not fonts.has_characters(font, "water \u6c34")


def test_drawable__without_a_font_drops_accents(no_fonts, capsys):
    assert fonts.drawable("For\u00eat d'\u00e9t\u00e9", 26)[1] == "Foret d'ete"
    assert capsys.readouterr().err == ""


def test_drawable__without_a_font_shows_code_points_and_says_so(no_fonts, capsys):
    assert fonts.drawable("\u6c34 1", 26)[1] == "U+6C34 1"
    fonts.drawable("more \u6c34", 26)
    assert capsys.readouterr().err.count("warning") == 1


def test_drawable__takes_a_font_of_the_system():
    text = "\u0432\u043e\u0434\u0430 \u00e9t\u00e9"
    found = filter(None, map(load, fonts.system_fonts()))
    if not any(fonts.has_characters(font, text) for font in found):
        pytest.skip("this system has no font with Cyrillic letters")
    font, drawn = fonts.drawable(text, 26)
    assert drawn == text
    assert fonts.has_characters(font, text)
    assert not np.array_equal(text_image(text), text_image("U+0432"))


def load(path):
    return fonts._load(path, 26)
