"""The demonstration, with a smaller network than a user gets."""

from dataclasses import replace

import sdclr.demo
from sdclr.recipes import digits_demo
from sdclr.training.optim import OptimConfig


def test_demo_ends_with_tables_and_a_report(tmp_path, monkeypatch, told):
    tiny = digits_demo()
    tiny = replace(tiny, epochs=2, encoder=replace(tiny.encoder, width=4), optim=OptimConfig(lr=0.1, warmup_epochs=0))
    monkeypatch.setattr(sdclr.demo, "digits_demo", lambda: tiny)
    tables, report = sdclr.demo.run_demo(tmp_path, splits=2)
    assert [line for line in told.told if "class order" in line][-1].startswith("class order 2 of 2: SDCLR on ")
    for table in tables:
        assert [row[0] for row in table.rows] == ["SimCLR", "SDCLR"]
        assert table.columns == ("Method", "Many", "Medium", "Few", "Std", "All")
        assert all("±" in cell for row in table.rows for cell in row[1:])
    page = report.read_text()
    assert "SDCLR" in page
    assert "<svg" in page
    assert (tmp_path / "sdclr-2" / "encoder.safetensors").exists()
