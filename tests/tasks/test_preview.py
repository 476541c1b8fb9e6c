"""`ftframe preview` as a user runs it."""

import json
from html.parser import HTMLParser

import pytest

EMBEDDED = ("data=people", "model.path=pkg://ftframe.embedded/tiny", "model.template=plain")


class Page(HTMLParser):
    """The text of a page's tokens that are learnt and of those that are not, and its tables' cells."""

    def __init__(self):
        super().__init__()
        self.text = {"s": "", "m": ""}
        self.cells = []
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.open.append(dict(attrs).get("class") if tag == "span" else tag)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in self.text:
            self.text[self.open[-1]] += data
        elif self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def previewed(ftframe, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("preview")
    rows = [{"prompt": f"<b>What</b> is {n}?", "completion": f"It is {n} é."} for n in range(20)]
    rows[3]["completion"] = None
    rows[5]["completion"] = "long " * 200
    (cwd / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = ftframe(
        "preview", "data=jsonl", "data.dataset.path=rows.jsonl", "data.dataset.validation_rows=4", "examples=2",
        "data.on_bad_row=skip", "data.max_bad_fraction=0.3", "data.on_too_long=drop", "data.max_length=64", cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (cwd / "outputs" / "preview").iterdir()
    return folder, done.stdout


@pytest.mark.slow
def test_the_terminal_marks_what_is_learnt(previewed):
    _, printed = previewed
    assert "rows.jsonl, row 5:" in printed
    assert "\u27e6It is 4 é.</s>\u27e7" in printed
    assert "1 too long" in printed


@pytest.mark.slow
def test_the_page_marks_the_same_and_escapes_it(previewed):
    folder, _ = previewed
    content = (folder / "preview.html").read_text()
    page = Page()
    page.feed(content)
    assert page.text["s"] == "It is 4 é.</s>It is 6 é.</s>"
    assert "<b>What</b> is 4?" in page.text["m"]
    assert "<b>" not in content
    assert {"Rows", "split", "learnt"} & set(page.cells) == {"split", "learnt"}
    assert "http" not in content  # self-contained


@pytest.mark.slow
def test_the_figures_account_for_every_row(previewed):
    folder, _ = previewed
    figures = json.loads((folder / "preview.json").read_text())
    counts = figures["rows"]
    assert counts == {"train_rows": 16, "train_too_long": 1, "validation_rows": 3, "validation_bad_row": 1}
    (task,) = figures["tasks"]
    assert (task["examples"], task["validation"]) == (15, 3)
    assert figures["layout"]["rows"] == 15
    rejected = [json.loads(line) for line in (folder / "rejected_rows.jsonl").read_text().splitlines()]
    assert [(row["where"], row["reason"]) for row in rejected] == [
        ("rows.jsonl, row 4", "bad_row"),
        ("rows.jsonl, row 6", "too_long"),
    ]


@pytest.mark.slow
def test_it_takes_what_fit_takes(ftframe, tmp_path):
    done = ftframe("preview", "experiment=mistral_qlora", "model=tiny", *EMBEDDED, "data.packing=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "packing efficiency" in done.stdout
    assert ftframe("preview", "optim.lrr=1", cwd=tmp_path).returncode == 2
