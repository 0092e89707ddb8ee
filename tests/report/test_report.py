"""Reports of hand-made records: tables, plots, the page, and what hostile text cannot do in it."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib.colors
import matplotlib.image
import pandas
import pytest
from commands import invoke
from matplotlib.figure import Figure
from report_folder import HOSTILE_TEXT, LENGTH, PLAN, Letters, point, samples, setting, shares, with_well_formed, write

from hf_unmask.report import frontier_plots, html, sections
from hf_unmask.report import writing as report
from hf_unmask.report.frontier_plots import Picture, write_frontier
from hf_unmask.report.html import inert_json
from hf_unmask.report.styles import styles
from hf_unmask.report.writing import write_csv, write_report
from hf_unmask.results.best_per_budget import budget_rows
from hf_unmask.results.comparable import groups, is_learned, label, regime
from hf_unmask.results.folder import Contents, read_contents
from hf_unmask.results.headline import headline
from hf_unmask.results.records import SCHEMA_VERSION, sample_line, write_results
from hf_unmask.results.trajectories import Answers, Reader, choose, payload


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write(tmp_path_factory.mktemp("evaluation"), tasks=("sums", "grids/4x4 <b>"))
    write_report(made, tokenizer=Letters())
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take a second each and have tests of their own."""
    monkeypatch.setattr(sections, "dark_picture", lambda *_: Picture(b"png", 1, 1, ()))


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


# --------------------------------------------------------------------------------------------------------------- files


def test_csv_has_one_line_per_operating_point(folder: Path) -> None:
    frame = pandas.read_csv(folder / "results.csv")
    assert len(frame) == 2 * len(PLAN)
    first = frame.iloc[0]
    assert (first.sampler, first.regime, first.accuracy, first.nfe_mean) == ("confidence:k=8", "full diffusion", 0.1, 2)
    assert first.seconds_total == pytest.approx(0.02)
    assert (first.environment_commit, first.accuracy_seed_0) == ("abc", 0.1)
    # by hand: 2 passes 10 %, 4 passes 77.5 %, 8 passes 80 %; and in blocks 90 % at 4 passes beats all but the cheapest
    sums = frame[frame.task == "sums"]
    marks = dict(zip(zip(sums.sampler, sums.regime, strict=True), sums.pareto_nfe.fillna(""), strict=True))
    assert {key for key, mark in marks.items() if mark == "task"} == {
        ("confidence:k=8", "full diffusion"),
        ("confidence:k=4", "blocks of 8"),
    }
    assert {key for key, mark in marks.items() if mark == "regime"} == {
        ("learned:policy;speed=0.5", "full diffusion"),
        ("threshold:threshold=0.99", "full diffusion"),
    }


def test_a_second_metric_has_a_column_everywhere(tmp_path: Path, no_plots: None) -> None:
    contents = read_contents(with_well_formed(write(tmp_path)))
    frame = pandas.read_csv(report.write_csv(contents, tmp_path / "results.csv"))
    first = frame.iloc[0]
    names = ("accuracy_by_well_formed", "accuracy_by_well_formed_low", "accuracy_by_well_formed_high")
    assert [first[name] for name in ("accuracy", *names)] == [0.1, 0.05, 0.0, 0.1]
    made = report.html(contents, [b"png"], None, ())
    budgets, points = (made[made.index(f'id="{name}"') :].partition("</table>")[0] for name in ("budgets", "points"))
    assert "well_formed [95 %]" in budgets and "45.0% [0.0, 90.0]" in budgets
    assert "well_formed [95 %]" in points and points.count("5.0% [0.0, 10.0]") == 1
    assert "Accuracy is by exact. well_formed: the final answer is right, every written step" in budgets


def test_plots_are_images(folder: Path) -> None:
    stems = ["frontier-grids-4x4-b", "frontier-sums"]
    assert sorted(path.stem for path in folder.glob("*.png")) == stems
    for stem in stems:
        picture = matplotlib.image.imread(folder / f"{stem}.png")
        assert picture.shape[0] > 300 and picture.std() > 0.01
        assert xml.etree.ElementTree.parse(folder / f"{stem}.svg").getroot().tag.endswith("svg")


def test_the_same_records_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    contents = read_contents(folder)
    group = contents.groups[0]
    again = [write_csv(contents, tmp_path / "results.csv"), *write_frontier(group, tmp_path, contents.fronts(group))]
    assert len(again) == 3
    for path in again:
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_page_stands_alone(folder: Path, page: str) -> None:
    assert (folder / "report.html").stat().st_size <= report.MAX_BYTES
    assert "http:" not in page and "https:" not in page
    assert not re.search(r'(src|href|srcset)="(?!data:|#)', page)


def test_names_of_any_length_and_script_give_files(tmp_path: Path) -> None:
    """A task of 300 letters was "File name too long"; fonts and XML lack some characters."""
    tasks = ["x" * 300, "x" * 299, "Sums", "sums", "算术\x1b\x00\uffff" * 40]
    of = [setting("learned:" + "规则\x01" * 90, task=task) for task in tasks]
    found = groups([point(one, [1.0], 2) for one in of])
    assert len({group.slug.lower() for group in found}) == len(tasks)
    assert all(0 < len(group.slug) < 110 for group in found)
    _, svg = write_frontier(found[-1], tmp_path, {"nfe": (), "seconds": ()})
    assert "算术" in svg.read_text("utf-8") and xml.etree.ElementTree.parse(svg).getroot() is not None


def grey(colour: str) -> bool:
    _, saturation, _ = matplotlib.colors.rgb_to_hsv(matplotlib.colors.to_rgb(colour))
    return saturation < 0.4


@pytest.mark.parametrize("policies", [0, 4, 16])
def test_sixteen_methods_share_neither_colour_nor_marker(policies: int) -> None:
    rules = ["confidence", "threshold", "dilated", "eos_suppress(margin)", "entropy", *(f"own{n}" for n in range(11))]
    names = [*rules[: 16 - policies], *(f"learned:{number}" for number in range(policies))]
    look = styles([point(setting(name), [1.0], 2) for name in names])
    assert len(look) == len({one.colour for one in look.values()}) == len({one.marker for one in look.values()}) == 16
    assert list(look)[:policies] == names[16 - policies :]  # in front, and first in the legend
    assert [one.front for one in look.values()] == [True] * policies + [False] * (16 - policies)
    assert [grey(look[name].colour) for name in names[: 16 - policies]] == [policies > 0] * (16 - policies)


def test_the_whole_legend_is_in_the_picture() -> None:
    """Names as long as paths: four columns of them were cut off at both sides."""
    names = [f"learned:{'/some/long/folder' * 4}/{number}" for number in range(16)]
    (group,) = groups([point(setting(name), [1.0], 2) for name in names])
    with frontier_plots._figure(group, {"nfe": (), "seconds": ()}, dark=False) as figure:
        assert isinstance(figure, Figure)
        legend, page = figure.legends[0].get_window_extent(), figure.bbox
        assert len(figure.legends[0].get_texts()) == 17
        assert page.x0 <= legend.x0 and legend.x1 <= page.x1 and page.y0 <= legend.y0
        assert legend.y1 < min(panel.get_tightbbox().y0 for panel in figure.axes)


def test_points_say_what_they_are(folder: Path, page: str) -> None:
    """Over each mark, where it is drawn; those of the Pareto set are labelled in the picture."""
    group = read_contents(folder).groups[0]
    picture = frontier_plots.dark_picture(group, {"nfe": (), "seconds": ()})
    assert len(picture.marks) == 2 * len(PLAN)
    pixels = matplotlib.image.imread(io.BytesIO(picture.png))
    assert pixels.shape[:2] == (picture.height, picture.width)
    for mark in picture.marks:  # a mark is no piece of the ground
        assert abs(pixels[int(mark.top), int(mark.left), :3] - pixels[2, 2, :3]).max() > 0.1
    says = "learned:policy;speed=0.5, full diffusion: 77.5% at 4.0 forward passes, 0.04 s"
    assert says in [mark.text for mark in picture.marks] and f"<title>{says}</title></circle>" in page
    svg = xml.etree.ElementTree.parse(folder / "frontier-sums.svg").getroot()
    assert svg is not None
    with frontier_plots._figure(group, read_contents(folder).fronts(group), dark=False) as figure:
        written = [[text.get_text() for text in panel.texts] for panel in figure.axes[:2]]
    assert written == [["k=4"], ["k=8", "0.99", "speed=0.5"]]


# --------------------------------------------------------------------------------------------------------- first words


def test_the_page_begins_with_what_was_found(page: str) -> None:
    assert "<title>tiny on sums, grids/4x4 &lt;b&gt;: samplers compared</title>" in page
    assert "model tiny; data problems; date 2026-12-01; commit abc." in page
    # nothing opens one token per step: 95 % of the best, 90 % in blocks, which the best keeps itself
    lead = (
        '<p class="lead"><strong>sums:</strong> <code>confidence:k=4</code>, blocks of 8, keeps 95 % of the best '
        "accuracy measured at 4.0 forward passes (90.0%); one token per step needs 16.</p>"
    )
    places = [lead, '<section id="frontiers"', '<section id="viewer"', '<section id="budgets"', "<table"]
    assert sorted(map(page.index, places)) == [page.index(place) for place in places]


def test_the_headline_by_hand() -> None:
    slow = [point(setting("confidence"), shares(80, 100), 16), point(setting("margin"), shares(70, 100), 16)]
    cheap = [point(setting("threshold"), shares(75, 100), 5), point(setting("learned:a"), shares(76, 100), 9)]
    (group,) = groups([*slow, *cheap])
    found = headline(group)
    assert (found.slow, found.keeps, found.target) == (slow[0], cheap[1], pytest.approx(0.76))
    assert [one.setting.sampler for one in found.pair] == ["learned:a", "confidence"]
    said = str(html.headline(found))
    assert "<code>learned:a</code>, full diffusion, keeps 95 % of the accuracy of one token per step at 9.0" in said
    assert "(76.0%); one token per step needs 16 (<code>confidence</code>, full diffusion: 80.0%)." in said
    (group,) = groups([*slow, cheap[0]])
    assert headline(group).keeps is None and "no sampler measured keeps 95 %" in str(html.headline(headline(group)))
    (group,) = groups([point(setting("a"), [0.0], 2)])
    assert headline(group).keeps is None and len(headline(group).pair) == 1


def test_the_viewer_opens_with_the_best_and_its_baseline(page: str) -> None:
    task = data_of(page)["tasks"][0]
    shown = [(task["samplers"][place]["name"], task["samplers"][place]["regime"]) for place in task["opens"]]
    assert shown == [("confidence:k=4", "blocks of 8"), ("learned:policy;speed=0.5", "blocks of 8")]


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.0012345, "0.00123"), (0.1, "0.100"), (12.345, "12.3"), (98765.4, "98,765")]
)
def test_numbers_have_three_digits_that_matter(value: float, shown: str) -> None:
    assert html.digits(value) == shown


# ------------------------------------------------------------------------------------------------------- hostile texts


def test_hostile_texts_are_inert(page: str) -> None:
    assert "<img src=x" not in page
    assert "<b>" not in page
    assert "grids/4x4 &lt;b&gt;" in page
    assert HOSTILE_TEXT in data_of(page)["vocabulary"].values()


def test_json_cannot_end_its_element() -> None:
    hostile = {"a": "</script><!--<script>&\u2028\ud800"}
    assert not set("<>&\u2028") & set(inert_json(hostile))
    assert json.loads(inert_json(hostile)) == hostile


def test_hostile_specs_and_environments(tmp_path: Path, no_plots: None) -> None:
    of = setting("x<script>alert(1)</script>", task="</title>")
    bad = replace(point(of, [1.0, 0.0], 2), environment={"<script>": "<script>"})
    write_results(tmp_path / "results.json", [bad])
    made = report.html(read_contents(tmp_path), [b"png"], None, ())
    assert made.count("<script") == 2 and made.count("</title>") == 1


def test_whatever_the_results_hold_is_text(tmp_path: Path, no_plots: None) -> None:
    """A "prompts" that is markup left the page by a meta refresh: every value is escaped, whatever its type."""
    refresh = '<meta http-equiv="refresh" content="0;url=//a"><base href=//a><form action=//a>\'"\x1b\u202e\n'
    texts = {name: refresh for name in ("sampler", "model", "dataset", "task", "template", "metric")}
    bad = replace(
        point(setting(**texts), [1.0, 0.0], 2),
        prompts=refresh,  # type: ignore[arg-type]
        pass_at_k={refresh: 0.5},
        environment={refresh: {refresh: refresh}},
    )
    found = groups([bad])
    contents = Contents([bad], found, {found[0].identity: Answers({}, 0, 0)}, {}, {"nfe": {}, "seconds": {}})
    made = report.html(contents, [b"png"], None, ())
    template = (Path(report.__file__).parent / "assets" / "report.html.jinja").read_text("utf-8")
    assert made.count("<meta") == template.count("<meta") and "<base" not in made and "<form" not in made
    assert not {"\x1b", "\u202e"} & set(made) and made.count("&lt;meta http-equiv=&#34;refresh&#34;") > 5


def test_the_page_may_load_send_and_rebase_nothing(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert rules["img-src"] == "data:" and rules["script-src"].startswith("'sha256-")


def test_markup_stands_in_templates_which_escape() -> None:
    """By construction: no tag in Python, and what a template takes unescaped is the style and the script beside it."""
    folder = Path(report.__file__).parent
    for path in folder.glob("*.py"):
        assert not re.search(r"</?[a-z]+[ >]", path.read_text("utf-8").replace("frontier-<task>", "")), path
    templates = "".join(path.read_text("utf-8") for path in (folder / "assets").glob("*.jinja"))
    assert sorted(re.findall(r"(\w+)\s*\|\s*safe", templates)) == ["script", "style"]
    assert "autoescape" not in templates


# -------------------------------------------------------------------------------------------------------------- tables


def test_budget_rows_by_hand(folder: Path) -> None:
    contents = read_contents(folder)
    group = contents.groups[0]
    scores = {p.setting.key: dict(enumerate(shares(round(p.accuracy * 40), 40))) for p in group.points}
    rows = {(row.regime, row.share.denominator): row for row in budget_rows([group], scores)}
    assert [row.budget for row in rows.values()] == [1, 2, 4, 8, 16] * 2
    assert rows["full diffusion", 16].best is None
    cheap = rows["full diffusion", 8]
    assert cheap.best is not None and cheap.best.setting == setting("confidence:k=8")
    assert cheap.second is None and cheap.against_second is None
    middle = rows["full diffusion", 4]
    assert middle.best is not None and middle.second is not None and middle.heuristic is not None
    assert middle.best.setting.sampler == "learned:policy;speed=0.5"
    assert middle.second.setting.sampler == "threshold"
    assert middle.heuristic.setting == setting("confidence:k=4", 8)
    assert middle.against_second is not None and middle.against_heuristic is not None
    # one prompt of 40 differs: 1/40; five differ, all one way: -5/40, exact p 2 / 2**5
    assert middle.against_second.difference == pytest.approx(0.025)
    assert middle.against_second.verdict == "not distinguishable"
    assert middle.against_heuristic.difference == pytest.approx(-0.125)
    assert middle.against_heuristic.p_value == pytest.approx(0.0625)
    blocks = rows["blocks of 8", 4]
    assert blocks.against_second is not None and blocks.against_second.verdict == "better"
    assert blocks.best == blocks.heuristic and blocks.against_heuristic is None


def test_budget_table_is_the_first_and_says_it_in_words(page: str) -> None:
    first = page[page.index("<table") : page.index("</table>")]
    assert "not distinguishable</span> from <code>threshold</code>: +2.5 points" in first
    assert "better</span> than <code>learned:policy;speed=0.5</code>: +60.0 points" in first
    assert "4 (L/4)" in first and "the best sampler itself" in first


def test_comparisons_use_common_prompts_only() -> None:
    """A run that was stopped has answers of one sampler that the other lacks."""
    points = [point(setting("a"), [1.0], 2), point(setting("b"), [0.0], 2)]
    a, b = (p.setting.key for p in points)
    row = budget_rows(groups(points), {a: {0: 1.0, 1: 1.0}, b: {1: 0.0, 2: 1.0}})[-1]
    assert row.against_second is not None and row.against_second.prompts == 1
    assert budget_rows(groups(points), {a: {0: 1.0}, b: {1: 0.0}})[-1].against_second is None


def test_points_generated_otherwise_are_not_compared() -> None:
    """Prevents that ending early, drawn tokens or another data set pass for a better sampler of the same regime."""
    others = ({}, {"stop_at_eos": True}, {"temperature": 0.5}, {"dataset": "others"})
    points = [point(setting("ab"[number % 2], **other), [1.0], 2) for number, other in enumerate(others)]
    found = groups(points)
    assert [len(group.points) for group in found] == [1] * 4
    assert found[1].title == "sums, dataset problems, temperature 0.0, stop_at_eos True"
    rows = budget_rows(found, {p.setting.key: {0: 1.0} for p in points})
    assert len(rows) == 4 * 5 and all(row.second is None for row in rows)


def test_tables_are_markdown(folder: Path) -> None:
    text = (folder / "tables.md").read_text("utf-8")
    part = text[text.index("## sums") : text.index("## grids")]
    overview, *regimes = part.strip().split("\n\n")[1:]
    heads = ["sums: best of", "blocks of 8", "full diffusion", "best heuristic at any block length"]
    assert cells(overview.splitlines()[0]) == heads
    # by hand: within 4 passes the policy has 77.5 % in full diffusion, confidence 90 % in blocks
    best = "90.0 (4.0) [80.0, 100.0] `confidence:k=4`"
    policy = "77.5 (4.0) [67.5, 87.5] `learned:policy;speed=0.5`"
    assert cells(overview.splitlines()[4]) == ["at most 4 NFE", best, policy, f"{best}, blocks of 8"]
    blocks, full = ({row[0]: row[3] for row in map(cells, one.splitlines()[2:])} for one in regimes)
    assert full["`confidence`"] == "25.0 (4.0)" and full["`threshold`"] == "75.0 (4.0)"
    assert full["**best in this regime**"] == policy
    assert full["**best heuristic at any block length**"] == f"{best}, blocks of 8"
    assert full["the former is, against the latter"] == "not distinguishable"
    assert blocks["the former is, against the latter"] == "the same"


def cells(line: str) -> list[str]:
    return line.removeprefix("| ").removesuffix(" |").split(" | ")


def test_areas_name_their_reference_and_target(page: str) -> None:
    areas = page[page.index('id="areas"') :]
    assert f"reference: {LENGTH} NFE, accuracy 0" in areas and "AUP" in areas
    # 95 % of 90 %, which confidence reaches in blocks with 4 passes and the policy does not
    assert "4.0 (target: 85.5%)" in areas and "does not reach 85.5%" in areas


def test_transfer_shows_samplers_that_ran_in_several_settings(page: str, tmp_path: Path, no_plots: None) -> None:
    assert "90.0 % @ 4.0" in page[page.index('id="transfer"') : page.index('id="orders"')]
    made = report.html(read_contents(write(tmp_path, prompts=4)), [b"png"], None, ())
    transfer = made[made.index('id="transfer"') : made.index('id="orders"')]
    assert transfer.count("<code>") == 2 and "threshold" not in transfer
    write_results(tmp_path / "results.json", [point(setting("a"), [1.0], 2)])
    assert 'id="transfer"' not in report.html(read_contents(tmp_path), [b"png"], None, ())


def test_opening_order(page: str) -> None:
    """Pairs open together in 8 steps: half of the tokens with a right neighbour open with it."""
    orders = page[page.index('id="orders"') :]
    assert f"{8 / 15:.1%}" in orders and "correlation with 1" in orders


def test_names() -> None:
    assert regime(setting("a", LENGTH)) == regime(setting("a", 99)) == regime(setting("a")) == "full diffusion"
    assert regime(setting("a", 4)) == "blocks of 4"
    assert label(setting("a", temperature=0.5, stop_at_eos=True)) == "a, temperature 0.5, stops at EOS"
    assert is_learned("eos_suppress(learned:x)") and is_learned("learned:x;speed=1") and not is_learned("threshold")
    two = groups([point(setting("a", template=name), [1.0], 2) for name in ("x", "y")])
    assert [group.title for group in two] == ["sums, template x", "sums, template y"]
    same = groups([point(setting("a", task=name), [1.0], 2) for name in ("a/b", "a b")])
    assert [group.slug for group in same] == ["a-b", "a-b-2"]


# -------------------------------------------------------------------------------------------------------- trajectories


def test_trajectories_are_chosen_in_order_and_counted(tmp_path: Path) -> None:
    settings = [setting("a"), setting("b")]
    group = groups([point(of, [1.0] * 3, 2) for of in settings])[0]
    stored = [sample for of in settings for seed in (1, 0) for sample in samples(of, [1.0] * 3, 2, seed)]
    # b did not answer prompt 0: prompts that all answered come first
    stored = [sample for sample in stored if sample.setting != settings[1] or sample.prompt_id]
    stored += samples(setting("no operating point"), [1.0] * 3, 2)
    (tmp_path / "samples.jsonl").write_text("".join(map(sample_line, stored)))
    reader = Reader(tmp_path / "samples.jsonl", [group], limit=3)
    answers = reader.answers(group)
    assert list(answers.kept) == [1, 2, 0]
    assert reader.scores()[settings[1].key] == {1: 1.0, 2: 1.0}
    every = choose(group, answers, (), 1_000_000)
    assert (every.prompts, every.answers.prompts, every.answers.trajectories) == (3, 3, 10)
    assert {sample.seed for sample in every.samples} == {0}
    assert list(Reader(tmp_path / "samples.jsonl", [group], limit=1).answers(group).kept) == [1]
    one = len(json.dumps(payload([every], None)["tasks"][0]["prompts"][0]["trajectories"][0]))
    part = choose(group, answers, (), 2 * one + 50)
    assert [(s.prompt_id, s.setting.sampler) for s in part.samples] == [(1, "a"), (1, "b")]
    lone = choose(group, answers, {settings[1].key}, one + 50)
    assert [(s.prompt_id, s.setting.sampler) for s in lone.samples] == [(1, "b")]
    assert choose(group, answers, (), 0).samples == []


def test_page_stays_below_its_limit(tmp_path: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = read_contents(write(tmp_path))
    whole = report.html(contents, [b"png"], Letters().decode, ())
    monkeypatch.setattr(report, "MAX_BYTES", len(whole) - 20_000)
    small = report.html(contents, [b"png"], Letters().decode, ())
    shown = re.search(r"(\d+) of (\d+) stored trajectories", small)
    assert len(small.encode()) <= report.MAX_BYTES
    assert shown is not None and 0 < int(shown[1]) < int(shown[2]) == 40 * len(PLAN)


def test_without_a_tokenizer_ids_are_shown(tmp_path: Path, no_plots: None) -> None:
    made = report.html(read_contents(write(tmp_path, prompts=4)), [b"png"], None, ())
    assert "tokens are shown as ids" in made
    assert data_of(made)["vocabulary"]["5"] == "5"


def test_what_was_not_read_is_null() -> None:
    of = setting("a")
    group = groups([point(of, [1.0], 2)])[0]
    sample = replace(samples(of, [1.0], 2)[0], confidence=[float("nan"), None] * (LENGTH // 2))
    for changed, expected in ((sample, [None] * LENGTH), (replace(sample, confidence=None), None)):
        chosen = choose(group, Answers({0: [changed]}, 1, 1), (), 9_999)
        found = payload([chosen], None)["tasks"][0]["prompts"][0]["trajectories"][0]
        assert found["confidence"] == expected


# -------------------------------------------------------------------------------------------------------- command line


def run(*arguments: object) -> tuple[int, str, str]:
    result = invoke(arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_report_command(tmp_path: Path) -> None:
    code, out, _ = run("report", write(tmp_path, prompts=4))
    assert code == 0 and "report.html" in out
    # the embedded model was named, so its tokenizer is used
    assert "tokens are shown as ids" not in (tmp_path / "report.html").read_text("utf-8")


def test_transfer_command_joins_folders(tmp_path: Path) -> None:
    for model in ("small", "large"):
        of = [setting(spec, model=model) for spec in ("learned:policy;speed=1", "learned:policy;speed=0", "random")]
        (tmp_path / model).mkdir()
        write_results(tmp_path / model / "results.json", [point(one, [1.0, 0.0], 2) for one in of])
    folders = (tmp_path / "small", tmp_path / "large")
    code, out, _ = run("transfer", *folders, "--sampler", "learned:policy")
    assert code == 0 and out.splitlines()[2:] == [
        "| sampler | model small | model large |",
        "|---|---|---|",
        "| learned:policy;speed=1 | 50.0 % @ 2.0 | 50.0 % @ 2.0 |",
        "| learned:policy;speed=0 | 50.0 % @ 2.0 | 50.0 % @ 2.0 |",
    ]
    assert len(run("transfer", *folders)[1].splitlines()) == 4 + 3
    assert "make it a column" in run("transfer", *folders, "--columns", "task")[2]
    assert "there are learned:policy" in run("transfer", *folders, "--sampler", "klass")[2]


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    for command in ("report", "transfer"):
        assert run(command, tmp_path)[::2] == (
            2,
            f"error: {tmp_path} is empty, not an evaluation: `hf-unmask evaluate --output DIR` writes one\n",
        )
    assert run("watch", tmp_path)[0] == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "cannot be read as results"),
        ("{", "cannot be read as results"),
        ('{"schema_version": 1, "records": []}', "schema version 1, this package reads"),
        (f'{{"schema_version": {SCHEMA_VERSION}, "records": [{{}}]}}', "accuracy_interval"),
        (f'{{"schema_version": {SCHEMA_VERSION}, "records": []}}', "no operating points"),
    ],
)
def test_damaged_results_are_one_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "results.json").write_text(content)
    code, _, err = run("report", tmp_path)
    assert code == 2 and says in err and str(tmp_path) in err and err.count("\n") == 1


def test_damaged_samples_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"setting": {"sampler": "a"}}\n')
    code, _, err = run("watch", tmp_path)
    assert code == 2 and "samples.jsonl, line 1 cannot be read" in err


def test_a_tokenizer_that_does_not_load_leaves_ids(tmp_path: Path) -> None:
    of = setting("a", model=str(tmp_path / "gone"))
    write_results(tmp_path / "results.json", [point(of, [1.0], 2)])
    (tmp_path / "samples.jsonl").write_text(sample_line(samples(of, [1.0], 2)[0]))
    code, out, err = run("watch", tmp_path)
    assert code == 0 and "tokens are shown as ids" in err
    assert "step   1  3 4 5 6 7 8 9 10 ________" in out


def test_watch_prints_steps_of_several_samplers(tmp_path: Path) -> None:
    write(tmp_path)
    code, out, err = run(
        "watch",
        *(tmp_path, "--prompt-id", 31, "--sampler", "threshold:threshold=0.9"),
        *("--sampler", "threshold:threshold=0.99"),
    )
    lines = out.splitlines()
    assert code == 0 and err == ""
    assert lines[0] == "sums, prompt 31"
    assert lines[1].startswith("[1] threshold, full diffusion") and lines[2].startswith("[2] threshold:threshold=0.99")
    steps = [line for line in lines if "step " in line]
    assert [line[:13] for line in steps[:3]] == ["[1] step   1 ", "[2] step   1 ", "[1] step   2 "]
    assert len(steps) == 4 + 8 and "_" not in steps[-1].partition("step")[2]
    assert lines[-2:] == [
        "threshold, full diffusion: wrong, 4 NFE",
        "threshold:threshold=0.99, full diffusion: correct, 8 NFE",
    ]


def test_watch_takes_a_name_for_all_dials(tmp_path: Path) -> None:
    _, out, _ = run("watch", write(tmp_path, prompts=1), "--sampler", "confidence")
    assert [line.partition(" ")[2] for line in out.splitlines()[1:4]] == [
        "confidence:k=8, full diffusion:",
        "confidence:k=4, full diffusion:",
        "confidence:k=4, blocks of 8:",
    ]


def test_watch_says_what_there_is(tmp_path: Path) -> None:
    write(tmp_path)
    for option, value in (("--sampler", "klass"), ("--task", "grids"), ("--prompt-id", 99)):
        code, _, err = run("watch", tmp_path, option, value)
        assert code == 2 and str(value) in err and "there are" in err
    assert f"4 of {len(PLAN)} shown" in run("watch", tmp_path)[2]
