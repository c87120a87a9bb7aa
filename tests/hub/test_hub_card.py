"""The card: only facts that are there, valid for the Hub, nothing of the machine; and the licence and report in it."""

import pytest
from hub_checkpoints import ROPES, llama, record
from huggingface_hub import ModelCard

from lit_long.errors import UserError
from lit_long_hub.card import CardFacts, model_card
from lit_long_hub.licence import Licence, find_licence
from lit_long_hub.privacy import hub_id, is_local, public, without_paths
from lit_long_hub.report import copy_plots, read_report


def card(entry, **changes):
    facts = {
        "record": entry,
        "config": {"model_type": "llama", "rope_parameters": ROPES["abf"]},
        "base_model": "example/tiny-llama",
        "parameters": 12_345,
        "licence": {"license": "apache-2.0"},
        "verification": None,
        "evaluation": None,
    }
    return model_card(CardFacts(**(facts | changes)))


def test_front_matter_is_what_the_hub_reads():
    data = ModelCard(card(record(llama()))).data
    assert data.base_model == "example/tiny-llama"
    assert data.base_model_relation == "finetune"
    assert data.license == "apache-2.0"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert data.tags == ["long-context", "lit-long", "rope-abf"]


def test_missing_facts_leave_their_lines_out():
    entry = record(llama(), training={}, versions={})
    text = card(entry, base_model=None, licence={})
    head = ModelCard(text).data.to_dict()
    assert not head.keys() & {"license", "base_model", "base_model_relation"}
    for word in (
        "None",
        "null",
        "## Training",
        "## Versions",
        "## Verification",
        "## Evaluation",
        "More Information",
        "[]",
    ):
        assert word not in text, word
    full = card(record(llama()))
    assert "| Optimizer steps | 7 |" in full
    assert "| Tokens trained on | 28,672 |" in full
    assert "Weight decay" not in full  # not in this run's facts
    assert '"rope_theta": 500000.0' in full
    assert "--max-model-len 512" in full


def test_local_places_are_left_out():
    training = {"device": "/dev/nvidia0", "data": {"name": "~/books", "source": "/srv/alice/books", "tokens": 5}}
    text = card(record(llama(), training=training))
    assert "alice" not in text
    assert "nvidia0" not in text
    assert "~/books" not in text
    assert "| Data, tokens | 5 |" in text
    web = {"data": {"source": "https://example.org/books"}}
    assert "https://example.org/books" in card(record(llama(), training=web))


def test_llama_terms_show_their_notice():
    assert "Built with Llama" in card(record(llama()), licence={"license": "llama3.1"})
    assert "Built with Llama" not in card(record(llama()))


@pytest.mark.parametrize("text", ["/srv/x", "~/x", "./x", "../x", "C:\\x", "D:/x", "file:///x", "\\\\host\\x", "."])
def test_local_places_are_known_by_their_form(text):
    assert is_local(text)
    assert hub_id(text) is None
    assert public({"a": text, "b": [text, 1], "c": None}) == {"b": [1]}


def test_a_hub_id_is_told_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert hub_id("org/name-1.5_b") == "org/name-1.5_b"
    assert hub_id("gpt2") == "gpt2"
    assert hub_id("runs/base") is None
    assert hub_id("runs/other") is None  # an owner that is a folder here
    assert hub_id("runs/base", revision="abc") == "runs/base"  # only the Hub has revisions
    assert hub_id("a/b/c") is None
    assert hub_id(None) is None


def test_paths_in_text_are_cut_to_their_last_name():
    line = "| /srv/alice/run 1 | ../runs/abf | `~/m/base` | org/name | https://example.org/a/b | 1/2 | a / b | tok/s |"
    assert without_paths(line) == (
        "| run 1 | abf | `base` | org/name | https://example.org/a/b | 1/2 | a / b | tok/s |"
    )


def test_the_base_models_licence_is_inherited_and_binding(tmp_path):
    assert find_licence(None, None) == Licence()
    assert find_licence("mit", None).entries == {"license": "mit"}
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: house\nlicense_link: LICENSE\n---\n# x\n")
    (tmp_path / "LICENSE.txt").write_text("terms")
    (tmp_path / "licensed_data.csv").write_text("no licence")
    found = find_licence(None, tmp_path)
    assert found.entries == {"license": "other", "license_name": "house", "license_link": "LICENSE"}
    assert [path.name for path in found.files] == ["LICENSE.txt"]
    with pytest.raises(UserError, match="says 'other'"):
        find_licence("apache-2.0", tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert find_licence("mit", tmp_path).entries == {"license": "mit"}
    (tmp_path / "README.md").write_text("---\nlicense: [broken\n---\n")
    assert find_licence(None, tmp_path).entries == {}


def test_tables_and_plots_of_a_report_go_into_the_card(tmp_path):
    home, out = tmp_path / "report", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    (home / "loss.png").write_bytes(b"\x89PNG")
    (home / "report.md").write_text(
        "# Report of /srv/alice/run\n\nprose\n\n## Loss by position\n\n"
        "| model | loss |\n|---|---|\n| /srv/alice/abf | 2.5 |\n"
        "\n![Loss](loss.png)\n\n| second | table |\n|---|---|\n| 1 | 2 |"
    )
    report = read_report(home / "report.md", home / "run.ckpt")
    assert report.markdown == (
        "### Loss by position\n\n| model | loss |\n|---|---|\n| abf | 2.5 |\n\n![Loss](evaluation/loss.png)\n\n"
        "| second | table |\n|---|---|\n| 1 | 2 |"
    )
    assert copy_plots(report, out) == ["evaluation/loss.png"]
    assert (out / "evaluation" / "loss.png").read_bytes() == b"\x89PNG"
    assert "## Evaluation\n\n### Loss by position" in card(record(llama()), evaluation=report.markdown)


def test_bad_reports_are_refused(tmp_path):
    report = tmp_path / "r" / "report.md"
    with pytest.raises(UserError, match="No report"):
        read_report(report, report)
    report.parent.mkdir()
    report.write_text("no table")
    with pytest.raises(UserError, match="no Markdown table"):
        read_report(report, report)
    (tmp_path / "secret.png").write_bytes(b"x")
    for target in ("../secret.png", "gone.png"):
        report.write_text(f"| a |\n|---|\n![x]({target})")
        with pytest.raises(UserError, match="not a file in"):
            read_report(report, report)
