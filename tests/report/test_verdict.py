from dataclasses import replace

from report_examples import bare, full

from qdq.report.verdict import metric_text, verdict


def said(**changes: object) -> str:
    start = bare("onnxruntime")
    row = replace(start.rows[1], **changes)  # type: ignore[arg-type]
    return verdict(replace(start, rows=(start.rows[0], row)))[0]


def test_the_verdict_is_the_records_in_words() -> None:
    assert said(onnxruntime=0.8875) == (
        "INT8 for onnxruntime reaches 88.75% where float has 90.00% (1.25 points less); "
        "its file is 30% of the float file's size; all 2 layers run in integers in onnxruntime."
    )


def test_a_gain_no_change_and_float_layers_are_said_so() -> None:
    assert "(1.00 points more)" in said(onnxruntime=0.91)
    assert "(the same)" in said(onnxruntime=0.9)
    assert "reaches 80.00%" in said(onnxruntime=None, torch=0.8)
    assert "; 1 of 2 layers run in integers" in said(integer_layers=1)
    assert "same class as its simulation on 50.00%" in said(onnxruntime=None, torch=None)


def test_notes_training_and_the_worst_layer_are_told() -> None:
    file, trained, worst = verdict(full())
    assert "all 2 layers run in integers in onnxruntime. Note: net." in file
    assert trained == "2 epochs of fine-tuning for net took net 70.00% to 80.00%, after epoch 2."
    assert worst == "Layer net.0 is the most sensitive: quantized alone, it leaves 12.3 dB."


def test_training_that_did_not_help_and_the_other_mode() -> None:
    report = full()
    assert report.finetune is not None
    assert report.sensitivity is not None
    other = replace(
        report,
        finetune=replace(report.finetune, best_epoch=0),
        sensitivity=replace(report.sensitivity, mode="one_off"),
    )
    _, trained, worst = verdict(other)
    assert trained.endswith("did not beat net 70.00%; the weights are as before.")
    assert worst == "Layer net.0 would gain most from float: 12.3 dB without it."
    unjudged = replace(report, finetune=replace(report.finetune, before=None, best_epoch=2))
    assert "nothing was held out" in verdict(unjudged)[1]


def test_no_rows_no_verdict() -> None:
    assert verdict(replace(bare(), rows=())) == ()


def test_a_share_is_percent_and_another_metric_is_not() -> None:
    assert [metric_text(value) for value in (None, 0.5, -12.0)] == ["", "50.00%", "-12"]
