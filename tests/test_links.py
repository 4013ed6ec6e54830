"""What README.md and docs/*.md refer to exists: links, files, flags, and command lines that parse.

Commands, flags and files of an earlier version are left out where the same command line, paragraph,
list item or table row has the words "at commit".
"""

import pathlib
import re
import shlex

import pytest

import evaluate
import export
import predict
import prepare_data
import sweep
import train

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict,
            "prepare_data": prepare_data, "sweep": sweep, "export": export}
EARLIER = "at commit"
SUFFIXES = ("py", "md", "csv", "json", "txt", "png", "pt", "tif", "npy", "yml", "toml", "html")
# Files that a command writes, or that the user has: they need not be in the repository.
OUTPUTS = {"args.json", "log.csv", "last.pt", "best.pt", "curves.png", "preview.png",
           "metrics.json", "dataset.json", "tiles.csv", "classes.csv", "points.csv",
           "NAME.txt", "N_mask.png", "rachel_carson.txt", "scenes/", "masks/", "train/"}
OTHER_FLAGS = {"--help", "--slow", "--nproc-per-node", "--nnodes", "--node-rank", "--master-addr"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page):
    return page.read_text(encoding="utf-8")


def without_code(text):
    """The text without fenced and indented code blocks."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def anchors(text):
    """The anchors that GitHub gives to the headings of a page."""
    found = []
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", without_code(text), re.MULTILINE):
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)  # a link counts as its text
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeated = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None
                       for other in found)
        found.append(f"{anchor}-{repeated}" if repeated else anchor)
    return found


def broken_links(page):
    """The targets of a page's relative links that do not exist, with their anchors."""
    text = re.sub(r"`[^`]*`", "", without_code(read(page)))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or anchor and anchor not in anchors(read(path)):
            broken.append(target)
    return broken


def paragraphs(page):
    """The paragraphs, list items and table rows of a page, without those of an earlier version."""
    blocks = re.split(r"\n\s*\n|\n(?=\||- )", without_code(read(page)))
    return [block for block in blocks if EARLIER not in block]


def files_named(page):
    """The words in backticks that look like a file or folder of the repository."""
    words = re.findall(r"`([^`\n]+)`", "\n\n".join(paragraphs(page)))
    is_file = re.compile(rf"[\w.-]+(/[\w.-]+)*(\.({'|'.join(SUFFIXES)})|/)")
    return [word for word in words if is_file.fullmatch(word)]


def command_lines(text):
    """The command lines of a text as (name of the script, its words), templates left out."""
    text = re.sub(r"\\\n\s*", "", text)
    quoted = re.findall(r"`(python [^`\n]+)`", text)
    blocks = re.findall(r"^(?: {4})?((?:python|torchrun) .*)$", text, re.MULTILINE)
    found = []
    for line in [*quoted, *blocks]:
        words = shlex.split(line, comments=True)
        scripts = [word for word in words if word in {f"{name}.py" for name in COMMANDS}]
        template = EARLIER in line or "..." in words or "KIND" in words
        if scripts and not template:
            found.append((scripts[0].removesuffix(".py"), words[words.index(scripts[0]) + 1:]))
    return found


def flags_of_commands(capsys):
    """All flags in the help of the commands, and those that the scripts of bench/ add."""
    helps = [(module, ["--help"]) for module in COMMANDS.values()]
    helps += [(prepare_data, [kind, "--help"]) for kind in prepare_data.KINDS]
    for module, words in helps:
        with pytest.raises(SystemExit):
            module.parse_args(words)
    of_bench = []
    for path in (ROOT / "bench").glob("*.py"):
        of_bench += re.findall(r'(?:flag|add_argument)\("(--[\w-]+)"', read(path))
    return set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out)) | set(of_bench)


def flags_that_left():
    """The flags in the first column of the table of removed flags."""
    text = read(ROOT / "docs/negative-results.md")
    section = text.split("## Flags that left the command line")[1]
    rows = re.findall(r"^\| *(`--.*?) *\|", section.split("\n## ")[0], re.MULTILINE)
    return set(re.findall(r"--[a-z][\w-]*", " ".join(rows)))


@pytest.mark.parametrize("heading, anchor", [
    ("# Where to click next", "where-to-click-next"),
    ("## `train.py`: flags, seeds & more", "trainpy-flags-seeds--more"),
    ("## See [the page](page.md)", "see-the-page"),
    ("```\n# a comment\n```\n# Übung 2", "übung-2")])
def test_anchors__follow_githubs_rules(heading, anchor):
    assert anchors(heading) == [anchor]


def test_anchors__number_headings_that_repeat():
    assert anchors("# Data\n## Data\n## Data\n") == ["data", "data-1", "data-2"]


def test_broken_links__finds_a_missing_file_and_a_missing_anchor(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](#here) [b](#there) [c](no.md) [d](page.md#here) [e](page.md#no)\n"
                    "[f](https://example.org/#x)\n\n    code [g](no.md)\n", encoding="utf-8")
    assert broken_links(page) == ["#there", "no.md", "page.md#no"]


def test_command_lines__joins_lines_and_leaves_out_templates_and_earlier_versions():
    text = ("    python train.py --lr 1e-3 \\\n        --bs 16  # fast\n"
            "    torchrun --nproc-per-node 2 train.py --bs 4\n"
            "    python train.py --crf 1  # at commit 8e30d17\n"
            "    python prepare_data.py KIND --out x\n    python bench/tune.py --points 1\n"
            "and `python sweep.py --jobs 2`\n")
    assert command_lines(text) == [("sweep", ["--jobs", "2"]),
                                   ("train", ["--lr", "1e-3", "--bs", "16"]),
                                   ("train", ["--bs", "4"])]


@each_page
def test_pages__every_relative_link_resolves(page):
    assert broken_links(page) == []


@each_page
def test_pages__every_file_in_backticks_exists(page):
    missing = [name for name in files_named(page)
               if name not in OUTPUTS and not name.startswith(("data/", "runs/", "maps/"))
               and not (ROOT / name).exists()]
    assert missing == []


def test_outputs__are_not_files_of_the_repository():
    assert [name for name in OUTPUTS if (ROOT / name).exists()] == []


@each_page
def test_pages__every_command_line_parses(page, monkeypatch, capsys):
    monkeypatch.setattr(train.runs, "resumed_flags", lambda out: {})  # there is no such run here
    for script, words in command_lines(read(page)):
        try:
            COMMANDS[script].parse_args(words)
        except SystemExit as end:
            assert end.code == 0, (script, words, capsys.readouterr().err)


def test_pages__the_commands_of_the_quickstart_are_found():
    scripts = [script for script, _ in command_lines(read(ROOT / "README.md"))]
    assert set(scripts) >= {"train", "evaluate", "predict", "prepare_data"}


def test_pages__every_flag_in_backticks_exists_or_is_listed_as_removed(capsys):
    known = flags_of_commands(capsys) | OTHER_FLAGS
    for page in PAGES:
        allowed = known if page.name == "README.md" else known | flags_that_left()
        quoted = re.findall(r"`([^`\n]+)`", "\n\n".join(paragraphs(page)))
        named = re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(quoted))
        assert set(named) <= allowed, page.name


def test_negative_results__lists_as_removed_what_no_command_has(capsys):
    assert "--crf" in flags_that_left()
    assert not flags_that_left() & flags_of_commands(capsys)


def test_readme__names_every_command_idea_and_folder():
    named = files_named(ROOT / "README.md")
    assert {path.name for path in ROOT.glob("*.py")} <= set(named)
    folders = {f"{path.parent.name}/" for path in ROOT.glob("*/*.py")}
    assert folders | {"results/", "docs/"} <= set(named)


def test_readme__has_at_most_180_lines():
    assert len(read(ROOT / "README.md").splitlines()) <= 180
