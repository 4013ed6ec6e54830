"""Texts, legends and stacked images."""

from PIL import Image

from report.layout import PAPER, legend, stack_images, text_image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_text_image__words_wrap():
    one_line = text_image("one two three")
    wrapped = text_image("one two three", width=60)
    assert wrapped.height == 3 * one_line.height
    assert wrapped.width < one_line.width


def test_legend__columns_fit_in_the_width():
    entries = [(f"class {n}", RED) for n in range(6)]
    narrow, wide = legend(entries, 200), legend(entries, 1000)
    assert narrow.width <= 200
    assert 500 < wide.width <= 1000
    assert narrow.height == 6 * wide.height


def test_stack_images__left_sides_in_line():
    images = [Image.new("RGB", (10, 5), RED), Image.new("RGB", (20, 7), BLUE)]
    figure = stack_images(images, gap=3, margin=2)
    assert figure.size == (24, 19)
    found = [figure.getpixel(place) for place in ((2, 2), (2, 10), (13, 2), (2, 7))]
    assert found == [RED, BLUE, PAPER, PAPER]
