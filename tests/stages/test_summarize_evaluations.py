import json
import re
import shutil

import pytest

from tests.support.report_page import Reader, edit, make
from tests.support.report_results import interval

pytestmark = pytest.mark.slow  # each test makes a whole page, in one or two seconds


def test_reports_are_shown_as_text_beside_their_images(results):
    page = make(results)
    assert "bilateral &lt;small&gt; effusions" in page and "<small> effusions" not in page
    assert page.count('<article class="report">') == 6 and page.count("Radiograph image-") == 6
    assert page.count("Its reconstruction") == 12


@pytest.mark.parametrize(
    ("beams", "sampled", "shown"),
    [(5, "false", "with 5 beams"), (1, "true", "by sampling each token"), (1, "false", "greedily")],
)
def test_the_page_says_how_tokens_were_chosen(results, beams, sampled, shown):
    text = (results / "params.yaml").read_text()
    text = re.sub(r"(  num_beams:) \d+", rf"\1 {beams}", text)
    (results / "params.yaml").write_text(re.sub(r"(  do_sample:) \w+", rf"\1 {sampled}", text))
    assert f"reports generated {shown} for test images" in make(results)


def test_the_papers_tables_stand_beside_ours(results):
    text = Reader(make(results)).text
    assert "Table 1: Fine-tuned image classification" in text and "MedUnifier w/o TIG" in text
    assert "full, fine-tuned phantom-rsna (phantom) 60.2 55.2 to 65.2" in text
    assert (results / "results/tables/table_A1.csv").is_file()


def test_the_page_marks_what_is_evaluated_on_a_test_split(results):
    prompts = results / "workflow/zero_shot_prompts.yaml"
    prompts.write_text(prompts.read_text().replace("items: benchmark", "items: test"))
    text = Reader(make(results)).text
    assert "1 test split, classes of workflow/zero_shot_prompts.yaml." in text
    assert "full phantom-chexpert (phantom) 55.5 1 51.5 to 59.5" in text


def test_the_page_tells_means_over_seeds_from_one_run(results):
    path = results / "results/metrics/zero_shot@full-phantom.json"
    edit(path, lambda metrics: metrics.update(accuracy_seed_sd=2.44))
    text = Reader(make(results)).text
    assert "full phantom (phantom) 55.5 51.5 to 59.5, 3 seeds, sd 2.4" in text
    assert "each variant was pre-trained once, with seed 0" in text and "this is one run" not in text
    assert "means over seeds, 3 in zero-shot classification;" in text
    params = results / "params.yaml"
    params.write_text(params.read_text().replace("zero_shot: [phantom, ", "zero_shot: [] # "))
    assert "means over seeds" not in Reader(make(results)).text


def test_the_page_has_the_mean_of_trainings_with_seeds_of_their_own(results, monkeypatch):
    assert "mean of" not in Reader(make(results)).text
    params = results / "params.yaml"
    full = "full: {itc: 1.0, itm: 1.0, itg: 3.0, tig: 1.0}"
    assert full in params.read_text()
    text = params.read_text().replace(
        full, f"{full}\n  again: {{itc: 1.0, itm: 1.0, itg: 3.0, tig: 1.0, seed: 7}}"
    )
    params.write_text(text.replace("  itc: [full]", "  itc: [full, again]"))
    for path in [*results.glob("results/metrics/*@full*.json"), *results.glob("results/curves/*@full*.csv")]:
        shutil.copy(path, path.with_name(path.name.replace("@full", "@again")))
    edit(
        results / "results/metrics/zero_shot@again-phantom.json",
        lambda metrics: metrics.update(accuracy=65.5),
    )
    monkeypatch.setattr("stages.summarize.differences", lambda *_: [])  # there are no item scores here
    text = Reader(make(results)).text
    assert re.search(r"full \(mean of 2 seeds\) phantom \(phantom\) 60.5 (n = \d+, )?2 seeds, sd 7.1", text)
    assert "each variant was pre-trained once, with one of the seeds 0, 7." in text
    assert "are means over trainings that differ in nothing but the seed" in text


def test_the_page_says_where_fine_tuning_kept_the_linear_probe(results):
    path = results / "results/metrics/finetune@full-phantom-rsna-1.json"
    edit(path, lambda metrics: metrics.update(best_step_seed_0=0))
    text = Reader(make(results)).text
    assert "1 early stopping kept step 0: the linear probe." in text
    assert "full, fine-tuned phantom-rsna (phantom) 60.2 1 55.2 to 65.2 62.0 57.0 to 67.0" in text


def test_reranked_values_stand_below_the_first_ranking(results):
    assert "re-ranked by ITM" not in Reader(make(results)).text
    again = interval("itm_i2t_map_at_1", 53.5, 7.0, 150, 19.3)
    edit(results / "results/metrics/retrieve@full-phantom.json", lambda metrics: metrics.update(again))
    text = Reader(make(results)).text
    assert "Image to report, re-ranked by ITM mAP@1 53.5 46.5 to 60.5 19.3 150" in text
    assert "full, re-ranked by ITM, AP@K textbook phantom (phantom) 53.5 46.5 to 60.5" in text


def test_frechet_distances_say_why_they_have_no_interval(results):
    text = Reader(make(results)).text
    assert "A Fréchet distance has no interval: it is a property of whole sets" in text
    assert "full phantom (phantom) 4.1 1 n = 98 1.5 n = 98" in text  # 1: the number of the note below
    assert "of held-out test images; the paper reconstructs training images" in text


def test_both_protocols_of_generated_reports_are_explained_at_table_4(results):
    text = Reader(make(results)).text
    table = text[text.index("Table 4: Report generation") : text.index("Table 5:")]
    for protocol, told in (("report", "is the one reference"), ("release", "is a reference of its own")):
        assert re.search(f"Protocol {protocol}: [^.]+{told}", table)
        assert f"full, protocol {protocol} phantom (phantom)" in table


def test_generated_images(results):
    """Figures as the metrics say, figure 3, prompts, strips with the changing word, and the nearest pairs."""
    page = make(results)
    text = Reader(page).text
    assert "generated without a text (as the paper) 1.50 1.500" in text
    assert "the prompted finding 71.4 62.4 to 80.4 13.0 5.0 to 21.0 14.3 84.3 79.3 to 89.3 56" in text
    assert "edema 62.5 32.5 to 92.5 8 99.1" in text and "samples of one prompt 0.412" in text
    assert (
        "validation images 10.0 10.2 12.0 13.8 " in text
        and "generated from prompts 13.0 13.2 15.5 17.8 3.6" in text
    )
    section = page[page.index('id="generated"') : page.index('id="paper"')]
    shown = 2 * 3 + 6 + 3  # generated images: two lines of figure 3, prompts, a strip
    assert (
        section.count("<img") == 2 * 3 + shown + shown + 6 * 2
    )  # originals of figure 3, nearest to all shown, pairs
    near = re.findall(r"<summary>nearest training images</summary>(.*?)</details>", section)
    distances = [re.findall(r"<small>(\d+\.\d)</small>", part) for part in near]
    assert [" ".join(part) for part in distances] == [
        "12.0 13.0 14.0", "11.0 12.0 13.0",  # figure 3: from reports, without a text
        "13.0 14.0 15.0", "16.0 17.0 18.0", "14.0 15.0 16.0",  # two prompts, a strip
    ]  # fmt: skip
    assert "There is &lt;edema&gt;." in section and "There is a … left effusion." in section
    assert [f"<small>{size}</small>" in section for size in ("small", "moderate", "large")] == [True] * 3
    assert re.findall(r"<figcaption>(\d+\.\d)</figcaption>", section)[:3] == ["11.0", "12.0", "12.0"]


def test_without_generated_images_there_is_no_section(results):
    shutil.rmtree(results / "data/generated")
    page = make(results)
    assert 'id="generated"' not in page and "Generated images" not in Reader(page).text


def test_cider_is_no_percentage(results):
    metrics = results / "results/metrics/write_reports@full-phantom.json"
    edit(metrics, lambda found: found.update(cider=1.25))
    text = Reader(make(results)).text
    assert "CIDEr, no unit 1.2" in text and "metric, in % model" not in text


def test_clinical_metrics_tell_their_direction_and_cider_its_absence(results):
    metrics = results / "results/metrics/write_reports@full-phantom.json"

    def change(found):
        found.pop("cider", None)
        found.update(radcliq_v1=2.5, radgraph_partial=31.0, constant_radcliq_v1=3.5)

    edit(metrics, change)
    text = Reader(make(results)).text
    assert "RadCliQ-v1, no unit, lower is better 2.5" in text
    assert "F1RadGraph, partial, %, higher is better 31.0" in text
    assert "CIDEr is left out: it needs several references that differ" in text
    assert "CIDEr, no unit" not in text


def test_the_page_tells_how_many_reports_are_distinct_and_warns_of_a_collapse(results):
    metrics = results / "results/metrics/write_reports@full-phantom.json"
    references = {
        "reference_n_distinct": 160,
        "reference_distinct_share": 80.0,
        "reference_commonest_share": 5.0,
    }
    edit(
        metrics,
        lambda found: found.update(references, n_distinct=49, distinct_share=24.5, commonest_share=9.5),
    )
    text = Reader(make(results)).text
    assert "49 of the generated reports are distinct, 160 of the reference reports." in text
    assert "Distinct reports, % of all 24.5" in text and "collapsed" not in text
    edit(metrics, lambda found: found.update(n_distinct=4, distinct_share=2.0))
    assert "the generated reports have collapsed: 4 of 200 are distinct" in Reader(make(results)).text


def label_metrics(prefix, **aurocs):
    """Flat metrics of labels that do not exclude each other, as finetune and zero_shot leave them."""
    values = interval(f"{prefix}macro_auroc", sum(aurocs.values()) / len(aurocs), 3.0, 60, 50.0)
    for label, auroc in aurocs.items():
        values |= interval(f"{prefix}auroc_{label}", auroc, 4.0, 60, 50.0)
        values |= interval(f"{prefix}sensitivity_{label}", 77.7, 9.0, 12)
        values |= {f"{prefix}{kind}_{label}": 33.3 for kind in ("auprc", "f1", "specificity")}
    return values


def test_labels_that_do_not_exclude_each_other_are_shown_one_by_one(results):
    assert "Classification by label" not in Reader(make(results)).text
    text = (results / "params.yaml").read_text()
    text = text.replace("phantom-rsna: [pneumonia]", "phantom-rsna: {labels: [edema, pleural_effusion]}")
    text = text.replace(
        "multi_label: {}", "multi_label: {phantom-chexpert: {labels: [edema], blank: ignore}}"
    )
    (results / "params.yaml").write_text(text)
    for percent in (1, 10, 100):
        tuned = label_metrics("", edema=60.5, pleural_effusion=81.0 + percent / 100)
        probe = label_metrics("probe_", edema=55.5, pleural_effusion=70.0)
        (results / f"results/metrics/finetune@full-phantom-rsna-{percent}.json").write_text(
            json.dumps(tuned | probe)
        )
    (results / "results/metrics/zero_shot@full-phantom-chexpert.json").write_text(
        json.dumps(label_metrics("", edema=52.5))
    )
    text = Reader(make(results)).text
    assert "full on phantom-rsna, 10 % of the training split: AUROC of each label on the test split" in text
    assert "pleural effusion 82.0 78.0 to 86.0 33.3 33.3 77.7 33.3 12 / 60" in text
    assert "mean over labels 71.2 68.2 to 74.2" in text and "linear probe mean over labels 62.8" in text
    assert "full on phantom-chexpert, zero-shot" in text and "by similarity mean over labels 52.5" in text
    assert "by the matching head" not in text
    assert "A blank leaves the image out for its label, an uncertain label leaves the image out" in text
    assert "rsna 100% mean AUROC of labels" in text, "Table 1 has a column for the mean"
    with (results / "results/tables/table_3.csv").open() as file:
        assert "macro_auroc" in file.read()
