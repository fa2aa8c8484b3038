from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import torch

from bundle.__main__ import main
from bundle.configs import packed_configs
from bundle.facts import PackError, read_run
from bundle.metadata import describe, display_name, eval_metrics, required_packages
from bundle.pack import data_terms, pack, seal
from bundle.terms import Credits, DataTerms
from bundle.verify import verify
from mcsc_bundle.case_metrics import CaseMetric
from mcsc_bundle.options import references_in
from mcsc_bundle.plan import ChannelNormalization, Plan
from mcsc_bundle.postprocessing import Postprocessing, Step
from mcsc_bundle.score_record import save_record
from mcsc_bundle.shipped import PACKAGE
from mcsc_bundle.trained import plan_record, save_trained
from mcsc_bundle.trained_run import TrainedRun
from tests.bundle.runs import TERMS, make_run
from tests.mcsc_bundle.methods.cases import REGIONS


@pytest.fixture(autouse=True)
def no_torchscript(monkeypatch):
    """Its export takes a process of its own; ``test_bundle.py`` has it."""
    monkeypatch.setattr("bundle.pack.export_torchscript", lambda bundle: None)


def metadata(bundle):
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def test_a_run_packs_to_the_same_bytes_in_any_folder(tmp_path):
    run = make_run(tmp_path / "run")
    folder, archive = pack(run, "tiny_mri_segmentation", TERMS, tmp_path / "one")
    _, other = pack(run, "tiny_mri_segmentation", TERMS, tmp_path / "other")
    assert archive.name == "tiny_mri_segmentation_v0.1.0.zip" and archive.read_bytes() == other.read_bytes()
    unit_test = "test_tiny_mri_segmentation.py"
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [unit_test, folder.name, archive.name]
    assert (folder / "models" / "model.pt").read_bytes() == (run / "models" / "model.pt").read_bytes()


def test_metadata_come_from_plan_and_run(tmp_path):
    run = make_run(
        tmp_path / "run", "slicewise", labels={"background": 0, "lesion": 255}, channel_names=("T1", "FLAIR")
    )
    bundle, _ = pack(run, "tiny_mri_segmentation", TERMS, tmp_path)
    seen = metadata(bundle)
    image, pred = (seen["network_data_format"][part][key] for part, key in (("inputs", "image"), ("outputs", "pred")))
    assert (
        image["num_channels"] == 2 and image["channel_def"] == {"0": "T1", "1": "FLAIR"} and image["modality"] == "MR"
    )
    assert image["spatial_shape"] == ["4*(n+1)", "4*(n+1)"] and image["value_range"] == [-3, 5]
    assert pred["channel_def"] == {"0": "background", "1": "lesion"} and pred["num_channels"] == 2
    assert seen["eval_metrics"] == {"mean_dice": 0.7, "dice_lesion": 0.7}
    assert seen["sha256"] == {"models/model.pt": hashlib.sha256((run / "models" / "model.pt").read_bytes()).hexdigest()}
    packages = seen["required_packages_version"]
    assert {"nibabel", "blosc2", "scipy"} <= set(packages) and not {"torch", "os", "mcsc_bundle"} & set(packages)
    assert not any("+" in version for version in (*packages.values(), seen["pytorch_version"]))


def test_the_mean_dice_is_that_of_the_classes():
    """Class a 0.6, class b 0.2, which one case does not have; the mean of the two cases' means would be 0.525."""
    dice = {("x", "a"): 0.5, ("x", "b"): 0.2, ("y", "a"): 0.7, ("y", "b"): float("nan")}
    rows = [CaseMetric(*names, value, value, 0.0, 0.0, 1, 1) for names, value in dice.items()]
    assert eval_metrics(rows) == {"mean_dice": 0.4, "dice_a": 0.6, "dice_b": 0.2}


def test_authors_copyright_and_description_are_whose_they_are(tmp_path):
    run = make_run(tmp_path / "run")
    words = ["--data_source", "1, 2", "--data_license", "CC0", "--authors", "Author, Other"]
    main(["pack", str(run), "tiny", "--output_dir", str(tmp_path), *words])
    seen = metadata(tmp_path / "tiny")
    assert (seen["authors"], seen["copyright"]) == ("Author, Other", "Copyright (c) Author, Other")
    assert (
        seen["data_source"] == "1, 2" and "by Author, Other." in (tmp_path / "tiny" / "docs" / "README.md").read_text()
    )
    pack(run, "tiny", TERMS, tmp_path, credits=Credits("B", "Copyright 2026 C", "Finds things."))
    seen = metadata(tmp_path / "tiny")
    assert [seen[key] for key in ("authors", "copyright", "description")] == ["B", "Copyright 2026 C", "Finds things."]


def test_a_zip_that_cannot_be_written_ends_with_a_message(tmp_path):
    (tmp_path / "tiny_v0.1.0.zip" / "in the way").mkdir(parents=True)
    words = ["--output_dir", str(tmp_path), "--data_source", "phantoms", "--data_license", "CC0"]
    with pytest.raises(SystemExit, match=r"error: .*tiny_v0\.1\.0\.zip: cannot be written"):
        main(["pack", str(make_run(tmp_path / "run")), "tiny", *words])


def test_metadata_tell_regions_and_what_is_not_predicted(tmp_path):
    run = make_run(tmp_path / "run", ignore_value=3, **REGIONS)
    bundle, _ = pack(run, "tiny_mri_segmentation", TERMS, tmp_path)
    seen = metadata(bundle)
    pred = seen["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "whole", "1": "core"} and pred["num_channels"] == 2
    assert "values 2 for whole, 1 for core" in seen["pred_classes"] and "3 where nobody" in seen["label_classes"]
    assert not verify(bundle, run=False).failed
    assert "1 2 whole, 1 core" in (bundle / "docs" / "README.md").read_text()


def test_value_range_of_ct_is_what_the_clipping_leaves(tmp_path):
    ct = ChannelNormalization("CT", "ct", lower=-100, upper=300, mean=100, std=50)  # -4 to 4
    run = make_run(tmp_path / "run", channel_names=("CT",), normalization=(ct,))
    image = metadata(pack(run, "tiny", TERMS, tmp_path)[0])["network_data_format"]["inputs"]["image"]
    assert image["value_range"] == [-4, 4] and image["format"] == "hounsfield"


def test_no_case_name_and_no_path_leaves_the_machine(tmp_path):
    bundle, _ = pack(make_run(tmp_path / "run"), "tiny", TERMS, tmp_path)
    for path in (path for path in bundle.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"secret_case_name" not in content and str(tmp_path).encode() not in content, path


def test_the_card_states_data_scores_and_licence(tmp_path):
    bundle, _ = pack(make_run(tmp_path / "run"), "tiny", TERMS, tmp_path)
    card = (bundle / "docs" / "README.md").read_text()
    assert "| training scans | 1 labelled |" in card and "0.5 (0.5 to 0.5) ml" in card and "CC0 1.0" in card
    assert "0.700 +- 0.100" in card and "2 epochs, 10 steps, 1 minutes" in card
    assert TERMS.license_text in (bundle / "docs" / "data_license.txt").read_text()


@pytest.mark.parametrize(
    ("terms", "loses"), [("CC BY-NC-SA 4.0", True), ("for non-commercial use", True), ("CC-BY-SA 4.0, NCI", False)]
)
def test_the_card_passes_on_that_the_data_exclude_commercial_use(tmp_path, terms, loses):
    bundle, _ = pack(make_run(tmp_path / "run"), "tiny", DataTerms("somewhere", terms), tmp_path)
    card = (bundle / "docs" / "README.md").read_text()
    assert card.count("Not for commercial use either") == 2 * loses and f"That licence is: {terms};" in card


def test_scores_of_weights_that_are_gone_are_left_out(tmp_path, caplog):
    run = make_run(tmp_path / "run")
    plan, weights = Plan.load(run / "plan.json"), run / "models" / "model.pt"
    save_record(run, plan, "cnn", True, plan.largest_component, [weights])
    assert read_run(run).scores
    torch.save({name: value + 1 for name, value in torch.load(weights).items()}, weights)
    assert not read_run(run).scores and "other weights than there are now" in caplog.text
    (run / "overlay.png").write_bytes(b"")  # shows masks of those weights
    assert not (pack(run, "tiny", TERMS, tmp_path)[0] / "docs" / "overlay.png").exists()


def test_scores_of_another_network_are_no_metrics_of_the_one_that_is_shipped(tmp_path):
    run = make_run(tmp_path / "run")
    plan = Plan.load(run / "plan.json")
    save_record(run, plan, "both", True, plan.largest_component)
    assert metadata(pack(run, "tiny", TERMS, tmp_path)[0])["eval_metrics"] == {}


def test_labels_of_a_fold_that_validated_are_not_counted(tmp_path):
    run = make_run(tmp_path / "run")
    save_trained(run / "models", Plan.load(run / "plan.json"), ["another case"])
    assert read_run(run).labeled == ()


def test_nothing_that_is_optional_is_required(tmp_path):
    assert "triton" not in required_packages(PACKAGE.parent)


def test_only_what_a_method_learned_from_is_counted(tmp_path):
    run = make_run(tmp_path / "run")
    supervised = read_run(run)
    assert "trained on 1 labelled scans of it." in describe(supervised)
    other = dataclasses.replace(supervised, method="MCSC")
    assert "1 labelled and 0 unlabelled scans of it (semi-supervised)" in describe(other)


@pytest.mark.parametrize(
    ("channel", "modality"),
    [("cineMRI", "MR"), ("T2-FLAIR", "MR"), ("CT", "CT"), ("PET", "PET"), ("fraction", "n/a"), ("US image", "US")],
)
def test_modality_of_a_channel(tmp_path, channel, modality):
    bundle, _ = pack(make_run(tmp_path / "run", channel_names=(channel,)), "tiny", TERMS, tmp_path)
    assert metadata(bundle)["network_data_format"]["inputs"]["image"]["modality"] == modality


def test_the_display_name():
    assert display_name("hippocampus_mri_segmentation") == "Hippocampus MRI segmentation"
    assert display_name("MRI_brain") == "MRI brain"


def test_warnings_that_name_a_case_stay_at_home(tmp_path):
    run = make_run(tmp_path / "run")
    measured = json.loads((run / "fingerprint.json").read_text())
    measured["warnings"] = ["Empty labels, e.g. secret_case_name.", "The spacing differs."]
    (run / "fingerprint.json").write_text(json.dumps(measured))
    card = (pack(run, "tiny", TERMS, tmp_path)[0] / "docs" / "README.md").read_text()
    assert "The spacing differs." in card and "secret_case_name" not in card


def test_post_processing_that_was_decided_on_goes_along(tmp_path):
    run = make_run(tmp_path / "run")
    scores = {"left": 0.5}, {"left": 0.6}
    step = Step(("left",), True, 0.5, 0.6, *scores, "Dice rises.")
    Postprocessing(3, (step,)).save(run / "postprocessing.json")
    bundle, _ = pack(run, "tiny", TERMS, tmp_path)
    assert TrainedRun(bundle).postprocessing() == TrainedRun(run).postprocessing() == [("left",)]
    assert "largest is kept of left, decided on cross-validated masks" in (bundle / "docs" / "README.md").read_text()


def test_a_bundle_keeps_the_components_that_its_run_keeps(tmp_path):
    """As planned; and of a fold as its cross-validation decided."""
    runs = tmp_path / "runs"
    run = make_run(runs / "fold_0", largest_component=(("left", "right"), ("left",)))
    planned, _ = pack(run, "planned", TERMS, tmp_path)
    assert TrainedRun(planned).postprocessing() == TrainedRun(run).postprocessing() == [("left", "right"), ("left",)]
    card = (planned / "docs" / "README.md").read_text()
    assert "largest is kept of left + right, then of left, decided on the label maps" in card
    Plan.load(run / "plan.json").replace(largest_component=()).save(run / "planned.json")
    edited, _ = pack(run, "edited", TERMS, tmp_path)
    assert "then of left, edited by hand" in (edited / "docs" / "README.md").read_text()
    Postprocessing(3, ()).save(runs / "postprocessing.json")
    decided, _ = pack(run, "decided", TERMS, tmp_path)
    assert TrainedRun(decided).postprocessing() == TrainedRun(run).postprocessing() == []
    assert Plan.load(decided / "plan.json").largest_component == ()  # model.ts has the plan and no file beside it
    assert "all are kept" in (decided / "docs" / "README.md").read_text()


def test_the_card_says_how_the_scored_masks_were_made_and_whether_the_bundle_makes_others(tmp_path):
    run = make_run(tmp_path / "run", largest_component=(("left",),))
    plan = Plan.load(run / "plan.json")

    def scores(name):
        return (pack(run, name, TERMS, tmp_path)[0] / "docs" / "README.md").read_text()

    assert "masks were made" not in scores("older")
    save_record(run, plan, "cnn", True, plan.largest_component)
    card = scores("same")
    assert "made by the CNN, averaged over mirror images, with the largest component of left." in card
    assert "otherwise" not in card
    save_record(run, plan, "cnn", False, ())
    card = scores("other")
    assert "made by the CNN, in one pass, with all components. **Masks of this bundle are made otherwise**" in card


def test_the_changelog_grows_newest_first(tmp_path):
    run = make_run(tmp_path / "run")
    pack(run, "tiny", TERMS, tmp_path)
    bundle, _ = pack(run, "tiny", TERMS, tmp_path, version="0.2.0", changes="more labels")
    assert list(metadata(bundle)["changelog"].items()) == [("0.2.0", "more labels"), ("0.1.0", "first version")]


def test_large_files_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.pack.MAX_FILE_BYTES", 20_000)
    bundle, _ = pack(make_run(tmp_path / "run"), "tiny", TERMS, tmp_path)
    text = (bundle / "large_files.yml").read_text()
    assert "path: models/model.pt" in text and "MONAI/tiny/resolve/0.1.0/models/model.pt" in text
    assert metadata(bundle)["sha256"]["models/model.pt"] in text


def test_sealing_again_leaves_large_files_where_they_lie_and_new_ones_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.pack.MAX_FILE_BYTES", 20_000)
    host = "https://host/{version}/{path}"
    bundle, _ = pack(make_run(tmp_path / "run"), "tiny", TERMS, tmp_path, large_files_url=host)
    before = (bundle / "large_files.yml").read_text()
    seal(bundle)
    assert (bundle / "large_files.yml").read_text() == before
    (bundle / "models" / "model.onnx").write_bytes(bytes(20_001))
    seal(bundle)
    text = (bundle / "large_files.yml").read_text()
    assert "url: https://host/0.1.0/models/model.pt" in text and "url: https://host/0.1.0/models/model.onnx" in text


def test_data_terms_come_from_the_options_or_from_dataset_json(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"licence": "CC-BY 4.0", "reference": "somewhere"}))
    assert data_terms(tmp_path).license_text == "CC-BY 4.0"
    (tmp_path / "terms.txt").write_text("my own terms\n")
    assert data_terms(tmp_path, "mine", str(tmp_path / "terms.txt")).license_text == "my own terms"
    with pytest.raises(PackError, match="received no licence"):
        data_terms(source="somewhere")


def test_a_plan_edited_after_the_training_is_not_packed_and_a_bundle_keeps_its_own(tmp_path):
    run = make_run(tmp_path / "run")
    plan = Plan.load(run / "plan.json")
    save_trained(run / "models", plan, ["secret_case_name"])
    bundle, _ = pack(run, "tiny", TERMS, tmp_path)
    assert json.loads((bundle / "models" / "trained.json").read_text()) == {"plan": plan_record(plan)}
    shipped = packed_configs(plan)["inference.json"]["shipped_plan"]["content"]
    assert TrainedRun(bundle, plan=Plan.from_dict(shipped)).weights.exists()
    shipped["spacing_mm"] = [9.0, 1.0, 1.0]
    with pytest.raises(SystemExit, match=r"the plan in the configs .*spacing_mm\[0\] = 9.0 \(trained with 1.0\)"):
        TrainedRun(bundle, plan=Plan.from_dict(shipped))
    plan.replace(orientation="LPS").save(run / "plan.json")
    with pytest.raises(PackError, match=r'orientation = "LPS" \(trained with "RAS"\)'):
        pack(run, "tiny", TERMS, tmp_path)


def test_packing_deletes_nothing_but_an_earlier_bundle(tmp_path):
    run = make_run(tmp_path / "runs" / "tiny_mri_segmentation")
    before = sorted(path.name for path in run.rglob("*"))
    with pytest.raises(PackError, match="is, or holds, the run that is to be packed"):
        pack(run, "tiny_mri_segmentation", TERMS, tmp_path / "runs")
    assert sorted(path.name for path in run.rglob("*")) == before
    (tmp_path / "dist" / "tiny_mri_segmentation").mkdir(parents=True)
    (tmp_path / "dist" / "tiny_mri_segmentation" / "thesis.txt").write_text("years of work")
    with pytest.raises(PackError, match="is no bundle: packing would delete it"):
        pack(run, "tiny_mri_segmentation", TERMS, tmp_path / "dist")
    assert (tmp_path / "dist" / "tiny_mri_segmentation" / "thesis.txt").exists()
    for _ in range(2):  # an earlier bundle is replaced
        pack(run, "tiny_mri_segmentation", TERMS, tmp_path / "other")


def test_each_config_that_runs_alone_holds_all_it_refers_to(tmp_path):
    bundle, _ = pack(make_run(tmp_path / "run"), "tiny", TERMS, tmp_path)
    for name in ("inference.json", "train.json", "evaluate.json"):
        config = json.loads((bundle / "configs" / name).read_text())
        assert {reference for reference in references_in(config) if reference not in config} == set(), name
