"""Configuration: files and flags in their order, recipes, help, the resolved file, what resume may change."""

import re
from pathlib import Path

import pytest
import yaml

from distgan import train
from distgan.cli import parse_command, read_yaml, to_yaml, validate
from distgan.config import RESUME_MAY_CHANGE, changed_fields, config_class, flatten, problems_between_fields, resume_may_change
from distgan.errors import InputError
from distgan.models import MODELS

RECIPES = sorted((Path(__file__).parents[2] / "launch" / "recipes").glob("*.yaml"))


def test_no_argument_is_needed() -> None:
    config = parse_command([]).config
    assert config.run.dir == "runs/digits-dcgan"
    assert config.data.url == "digits"


def test_later_files_win_and_flags_win_over_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("train: {batch_size: 8, total_kimg: 1}\nloss: {name: hinge}\n")
    second.write_text("train: {batch_size: 16, discriminator_steps: 5}\n")
    config = parse_command(["--config", str(first), "--train.discriminator_steps", "2", "--config", str(second)]).config
    assert (config.train.batch_size, config.train.total_kimg, config.train.discriminator_steps) == (16, 1.0, 2)
    assert config.loss.name == "hinge"
    assert config.run.dir == "runs/second"


def test_the_model_of_a_file_decides_the_section(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model:\n  name: mlp\n  generator_sizes: [3, 4]\n")
    assert parse_command(["--config", str(path)]).config.model.model_dump()["generator_sizes"] == [3, 4]
    with pytest.raises(InputError, match=r"model\.generator_sizes is a setting of model\.name mlp, but model\.name is dcgan"):
        parse_command(["--config", str(path), "--model.name", "dcgan"])


def test_values_of_every_kind_from_flags() -> None:
    arguments = [
        *("--model.name=mlp", "--model.generator_sizes", "8,9", "--model.conditional", "--data.resolution", "null"),
        *("--penalty.weight", "1e-2", "--run.dir", "a b"),
    ]
    config = parse_command(arguments).config
    assert config.model.model_dump()["generator_sizes"] == [8, 9]
    assert config.model.conditional is True
    assert config.data.resolution is None
    assert config.penalty.weight == 0.01
    assert config.run.dir == "a b"


def test_a_section_in_a_section_from_files_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: {num_workers: 3, augment: {flip: true, zoom: 0.25}}\n")
    config = parse_command(["--config", str(path), "--data.augment.zoom", "0.5", "--data.augment.rotation_degrees=10"]).config
    assert config.data.num_workers == 3
    assert config.data.augment.model_dump() == {"flip": True, "rotation_degrees": 10.0, "shift": 0.0, "zoom": 0.5}
    assert parse_command(["--config", str(path), "--no-data.augment.flip"]).config.data.augment.flip is False


def test_environment_variables_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("train.batch_size", "7")
    monkeypatch.setenv("TRAIN", '{"batch_size": 7}')
    monkeypatch.setenv("train", '{"batch_size": 7}')
    assert parse_command([]).config.train.batch_size == 64


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe: Path, tmp_path: Path) -> None:
    assert train.main(["--config", str(recipe), "--run.dir", str(tmp_path / "run"), "--dry-run"]) == 0


def test_the_default_is_the_digits_recipe() -> None:
    (recipe,) = [path for path in RECIPES if path.stem == "digits-dcgan"]
    assert parse_command(["--config", str(recipe)]).config == parse_command([]).config


def test_the_resolved_file_reads_back_as_the_same() -> None:
    config = parse_command(["--model.name", "mlp", "--penalty.weight", "1e-7", "--data.resolution", "16"]).config
    assert validate(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize("model", MODELS)
def test_help_explains_every_field_with_its_default(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command(["--model.name", model, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field, default in flatten(config_class(model)().model_dump()).items():
        found = re.search(rf"--{re.escape(field)}(?:, --no-{re.escape(field)})? (.*?)(?= --[a-z_]+\.|$)", text)
        assert found, field
        assert len(found.group(1)) > 20, f"{field} has no description"
        if default not in (None, "", False):
            assert "default: " in found.group(1), field
    assert "--config" in text
    assert "--dry-run" in text


def test_fields_of_a_quantity_name_their_unit() -> None:
    words = {"_kimg": "thousands of", "_seconds": "seconds"}
    for section in config_class("dcgan").model_fields.values():
        for name, field in section.annotation.model_fields.items():  # type: ignore[union-attr]
            for suffix, word in words.items():
                assert not name.endswith(suffix) or word in (field.description or ""), name


def test_dry_run_prints_what_would_run_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    assert train.main(["--dry-run", "--run.dir", str(run_dir), "--engine.accumulation_steps", "2"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out)["engine"]["accumulation_steps"] == 2
    assert re.search(r"# generator: [\d,]+ parameters", out)
    assert "# batch: 64 = 1 ranks x 64 (in 2 micro-batches)" in out
    assert "# data: 1,797 samples in 8 shards, 10 classes, images 32x32x1" in out
    assert not run_dir.exists()


@pytest.mark.parametrize("model", [["--model.discriminator_norm", "spectral"], ["--model.name", "sngan"]], ids=["dcgan", "sngan"])
def test_a_spectral_norm_bounds_a_critic_as_well(model: list[str]) -> None:
    problems = [
        problems_between_fields(parse_command(["--loss.name", "wasserstein", "--penalty.name", "none", *more]).config, 1)
        for more in ([], model)
    ]
    assert [len(found) for found in problems] == [1, 0]


def test_configuration_is_frozen() -> None:
    config = parse_command([]).config
    with pytest.raises(ValueError, match="frozen"):
        config.train.batch_size = 3  # type: ignore[misc]


def test_changed_fields_are_named_one_by_one() -> None:
    before, now = parse_command([]).config, parse_command(["--train.batch_size", "8", "--metrics.port", "0"]).config
    assert changed_fields(before.model_dump(), now.model_dump()) == {"train.batch_size": (64, 8), "metrics.port": (9400, 0)}


def test_what_resume_may_change_exists() -> None:
    fields = flatten(config_class("dcgan")().model_dump())
    for allowed in RESUME_MAY_CHANGE:
        assert any(resume_may_change(field) and field.startswith(allowed) for field in fields), allowed
    assert not resume_may_change("train.total_kimg_more")
    assert not resume_may_change("data.augment.flip")
    assert not resume_may_change("data.balance_classes")
    assert not resume_may_change("model.latent_size")


def test_read_yaml_of_an_empty_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "a.yaml") == {}
