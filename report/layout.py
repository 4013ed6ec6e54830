"""What figures are built of: texts, legends and pages as Pillow images."""

import math

from PIL import Image, ImageDraw

from report.fonts import drawable

# px, twice a screen's usual: a figure 1200 px wide is sharp in print and legible on a phone.
TEXT = 26
INK = (30, 30, 30)
PAPER = (255, 255, 255)
FAINT = (110, 110, 110)
GRID = (222, 222, 222)


def text_image(text, size=TEXT, colour=INK, background=PAPER, width=None):
    """Draw text as an image of its own size.

    Args:
        text: lines, in any script (see report.fonts).
        size: of the font, px.
        colour, background: (r, g, b).
        width: where longer lines are broken between words, px; None does not.
    Returns:
        PIL.Image.
    """
    font, text = drawable(str(text), size)
    lines = wrap(text, font, width)
    line_height = sum(font.getmetrics())
    # A quarter more, because an x or a comma reaches beyond its own width.
    image_width = math.ceil(max(map(font.getlength, lines))) + size // 4
    image = Image.new("RGB", (image_width, line_height * len(lines)), background)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((size // 8, number * line_height), line, colour, font)
    return image


def wrap(text, font, width=None):
    """Break text into lines of at most `width` px, where words allow; None breaks at newlines."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and width is not None and font.getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines


def paste(canvas, image, x, y, anchor_x=0.5, anchor_y=0.5):
    """Paste an image so that its anchor, in shares of its sides, lies at x, y px."""
    left = round(x - anchor_x * image.width)
    top = round(y - anchor_y * image.height)
    canvas.paste(image, (left, top))


def legend(entries, width, size=TEXT):
    """Draw a swatch, the name and perhaps a value of each entry, in columns.

    Args:
        entries: list of (name, (r, g, b)) or (name, (r, g, b), text such as "12.3 %").
        width: which the columns are to fit in, px; there is at least one.
        size: of text and swatches, px.
    Returns:
        PIL.Image.
    """
    gap = size // 2
    names = []
    values = []
    for name, _, *value in entries:
        names.append(text_image(name, size, width=width - 2 * size))
        values.append(text_image(value[0] if value else "", size, FAINT))
    name_width = max(image.width for image in names)
    value_width = max(image.width for image in values)
    entry_width = size + 2 * gap + name_width + value_width
    row_height = max(image.height for image in names) + gap // 2
    column_width = entry_width + 2 * gap
    columns = min(len(entries), max(1, (width + 2 * gap) // column_width))
    rows = math.ceil(len(entries) / columns)
    canvas = Image.new("RGB", (columns * column_width - 2 * gap, rows * row_height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, entry in enumerate(entries):
        x = number % columns * column_width
        y = number // columns * row_height + row_height // 2
        draw.rectangle((x, y - gap, x + size - 1, y + gap - 1), tuple(entry[1]), FAINT)
        paste(canvas, names[number], x + size + gap, y, anchor_x=0)
        paste(canvas, values[number], x + entry_width, y, anchor_x=1)
    return canvas


def stack_images(images, gap=0, margin=0):
    """Put images below each other, their left sides in line.

    Args:
        images: PIL images.
        gap, margin: white between two and around all, px.
    Returns:
        PIL.Image, as wide as the widest and its margins.
    """
    width = max(image.width for image in images)
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (width + 2 * margin, height + 2 * margin), PAPER)
    top = margin
    for image in images:
        canvas.paste(image, (margin, top))
        top += image.height + gap
    return canvas


def page(parts, title=None, entries=None, size=TEXT):
    """Put images below each other, with a title above and a legend below them.

    Args:
        parts: PIL images.
        title: text or None.
        entries: as in `legend`, or None.
        size: of the text, px.
    Returns:
        PIL.Image.
    """
    width = max([part.width for part in parts] + [20 * size])
    images = list(parts)
    if title:
        images.insert(0, text_image(title, round(1.2 * size), width=width))
    if entries:
        images.append(legend(entries, width, size))
    return stack_images(images, gap=size // 2, margin=size)
