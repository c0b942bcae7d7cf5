import json
import re

import pytest

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from tests.support.report_page import Reader, edit, make
from tests.support.report_results import write_splits

pytestmark = pytest.mark.slow  # each test makes a whole page, in one or two seconds


def test_page_is_whole_and_asks_for_nothing(results):
    page = make(results)
    reader = Reader(page)
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert {address[1:] for address in reader.addresses if address.startswith("#")} <= reader.ids
    assert not re.search(r"https?://|@import|url\(|srcset", page) and "script" not in reader.tags
    assert 'name="viewport" content="width=device-width' in page
    assert len(page.encode()) < 3_000_000
    assert reader.tags.count("caption") == reader.tags.count("table") > 5


def test_the_headline_repeats_the_metrics_of_the_evaluations(results):
    make(results)
    metrics = results / "results/metrics"
    stored = json.loads((metrics / "retrieve@full-phantom.json").read_text())
    for path in (results / "results/headline").iterdir():
        shown = json.loads(path.read_text())
        assert shown and all(isinstance(value, float | int) for value in shown.values())
    shown = json.loads((results / "results/headline/full.json").read_text())
    assert shown["i2t_map_at_1"] == stored["i2t_map_at_1"]
    scores = json.loads((metrics / "score_images@full.json").read_text())
    assert shown["psnr_reconstruction"] == scores["psnr_reconstruction"]


def test_same_results_give_the_same_page(results):
    assert make(results) == make(results)


def test_values_stand_with_their_interval_n_and_chance(results):
    text = Reader(make(results)).text
    share = 100 * 101.5 / load_params().model.codebook_size
    assert "mAP@1 51.0 43.9 to 58.1 18.3 150" in text
    assert "BLEU-4, % 24.0 22.0 to 26.0 19.0 17.0 to 21.0 14.0 12.0 to 16.0" in text
    assert "PSNR, dB 23.41 23.11 to 23.71 15.20 mean training image 200" in text
    assert f"top, 8 × 8 101.5 {share:.1f} % 41.0 %" in text
    assert "Image-text contrast (ITC) 3.500 1.200 34 %" in text
    assert "150 images and their reports from the class-balanced benchmark of phantom" in text


def test_counts_reconcile_on_the_page(results):
    text = Reader(make(results)).text.replace("\N{NARROW NO-BREAK SPACE}", "")
    assert "2480 images in the index = 1553 kept + 927 rejected" in text
    assert "1549 could be decoded and 4 could not" in text
    assert "other view 641 prepare the view is not among views" in text
    assert "unreadable image 4 decode_images" in text


def test_what_prepare_found_and_chose_stands_beside_the_counts(results):
    text = Reader(make(results)).text
    assert "Also found by prepare : reports not utf8 3." in text and "label rows without image" not in text
    assert "phantom.csv , sorted, one a line): train sha256 of train , validate sha256 of validate ," in text
    assert "benchmark sha256 of benchmark ." in text


def test_text_from_labels_is_marked_wherever_it_is_used(results):
    """In the page's first lines, at the data set, at retrieval and reports, in tables; not at other data sets."""
    mark = "sentences written from labels"
    assert mark not in Reader(make(results)).text and "(text from labels)" not in Reader(make(results)).text
    params = load_params()
    from_labels = params.datasets["phantom"].replace(report_from="labels", sections="either")
    params = params.replace(datasets={**params.datasets, "phantom": from_labels})
    texts = {
        "from": "labels",
        "template": "workflow/label_sentences.yaml",
        "version": 3,
        "sha256": "0123456789abcdef",
    }
    edit(results / "data/prepared/phantom/summary.json", lambda summary: summary.update(texts=texts))
    text = Reader(make(results, params)).text
    assert (
        "Text from labels: the texts of phantom are sentences written from labels by workflow/label_sentences.yaml, "
        "not radiologists’ reports."
    ) in text
    assert (
        "(workflow/label_sentences.yaml, version 3, SHA-256 0123456789ab…). No radiologist wrote them."
        in text
    )
    sections = re.split(r" (?=Variant full on )", text)
    marked = [part for part in sections if "These texts are sentences written from labels" in part]
    assert len(marked) == 2 and all(part.startswith("Variant full on phantom ") for part in marked)
    table = (results / "results/tables/table_2.csv").read_text(encoding="utf-8")
    assert "phantom (phantom) (text from labels)" in table
    assert "phantom-chexpert (phantom) (text" not in (results / "results/tables/table_3.csv").read_text(
        "utf-8"
    )


def test_benchmark_images_that_are_also_in_training_are_counted(results):
    assert "also in training" not in Reader(make(results)).text
    note = {"notes": {"benchmark_images_in_training": 121}}
    edit(results / "data/prepared/phantom/summary.json", lambda summary: summary.update(note))
    assert "( remove: none ): 121 of its 150 images are also in training" in Reader(make(results)).text


def test_benchmark_images_that_could_not_be_decoded_are_counted(results):
    assert "of these could not be decoded" not in Reader(make(results)).text
    ids = [f"image-{number:03d}" for number in (30, 31)] + ["broken-1", "broken-2"]
    write_splits(results, "phantom", {"benchmark": ids})
    text = Reader(make(results)).text
    assert "50 of pleural effusion; 2 of these could not be decoded and are not scored." in text


@pytest.mark.parametrize("path", ["data/prepared/phantom/summary.json", "data/images/phantom/summary.json"])
def test_counts_that_do_not_add_up_are_refused(results, path):
    edit(results / path, lambda summary: summary["rejected"].update(extra=1))
    with pytest.raises(InputError, match=r"@phantom: \d+ images came in, \d+ are kept or rejected"):
        make(results)


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("results/metrics/retrieve@full-phantom.json", "retrieve@full-phantom"),
        ("results/curves/pretrain@full.csv", "pretrain@full"),
        ("data/images/phantom/summary.json", "decode_images@phantom"),
    ],
)
def test_missing_results_are_named(results, path, stage):
    (results / path).unlink()
    with pytest.raises(InputError, match=rf"{path}: not found; it is made by the stage {stage}: "):
        make(results)


def test_notes_say_what_the_data_are_and_what_is_absent(results):
    text = Reader(make(results)).text
    assert "phantom-covidx: synthetic data" in text and "There is no FID" in text
    fid = {"fid_reconstruction": 61.25, "fid_validation": 8.5, "fid_reconstruction_n": 98}
    edit(results / "results/metrics/score_images@full.json", lambda metrics: metrics.update(fid))
    text = Reader(make(results)).text
    assert "There is no FID" not in text and "FID 61.25 8.50 validation images 98" in text


def test_only_enabled_evaluations_are_shown(results):
    params = results / "params.yaml"
    params.write_text(params.read_text().replace("retrieve: [phantom]", "retrieve: []"))
    page = make(results)
    assert 'id="retrieval"' not in page and 'id="reports"' in page


def test_the_first_line_says_that_data_are_synthetic(results):
    reader = Reader(make(results))
    first = next(words.strip() for words in reader.words if words.strip())
    assert first.startswith("Synthetic data: every image and report on this page is a computer-made phantom")
    assert not re.search(r"\breal\b", reader.text)  # of a phantom nothing is real
    params = results / "params.yaml"
    text = params.read_text()
    assert "root: data/simulated/rsna" in text
    params.write_text(re.sub(r"root: data/simulated/rsna\S*", "root: raw/rsna", text))
    first = next(words.strip() for words in Reader(make(results)).words if words.strip())
    assert first.startswith("Synthetic data: phantom") and "phantom-rsna" not in first


def test_what_decode_images_found_stands_beside_the_counts(results):
    text = Reader(make(results)).text.replace("\N{NARROW NO-BREAK SPACE}", "")
    assert (
        "Also found by decode_images : 1553 files compared with the checksums that the data set lists" in text
    )
    assert "12 of 16 declared bits used: 7." in text
