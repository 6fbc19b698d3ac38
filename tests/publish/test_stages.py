"""Stages 14 and 15 of mtkd.sh, on a finished tiny student."""

import os
import re
import subprocess

import builders
import hub_stub
import publish_recipe

# Of the teacher transducer there is no model here, which mtkd.sh would ask for.
PACK_ARGS = "--limits 'One speaker only.' --teacher path_teacher=unknown,unknown"


def run(recipe, hub, *options) -> subprocess.CompletedProcess:
    """mtkd.sh from stage 14 on; output of both kinds in `stdout`."""
    command = [
        *("./mtkd.sh", "--train_set", "train", "--valid_set", "valid"),
        *("--test_sets", "test", "--lang", "en", "--token_type", "char"),
        *("--encoder", "contextual_block_conformer", "--stream_decode", "false"),
        *("--mtkd_tag", "tiny", "--asr_tag", "tiny", "--ngpu", "0"),
        *("--skip_stages", " ".join(map(str, range(1, 14)))),
        *("--inference_args", "--beam_size 1", "--hf_repo", "user/tiny", *options),
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env.update(HF_ENDPOINT=hub.url, HF_TOKEN=hub_stub.TOKEN, HF_HUB_DISABLE_XET="1")
    return builders.run_group(command, recipe, env)


def stages(text: str) -> list[tuple[str, bool]]:
    """Number of each stage that was reached, and whether it was finished before."""
    found = re.findall(r"run_stage\) Stage (\d+): (.*)", text)
    return [(number, title.endswith(": finished before")) for number, title in found]


def test_a_student_is_packed_looked_at_and_uploaded(hub, tmp_path):
    (tmp_path / "tree").mkdir()
    recipe = builders.mirror_recipe(tmp_path / "tree", "asterisk")
    setup = builders.ROOT / "egs2/TEMPLATE/mtkd1/setup.sh"
    subprocess.run([setup, recipe], check=True, capture_output=True)
    publish_recipe.write_recipe(recipe)

    # Both stages are off unless they are asked for.
    result = run(recipe, hub)
    assert result.returncode == 0 and stages(result.stdout) == []
    both = ("--skip_packing", "false", "--skip_upload_hf", "false")
    result = run(recipe, hub, *both)
    assert result.returncode == 2
    assert "--license is required by stage 14" in result.stdout
    both += ("--license", "cc-by-sa-3.0", "--pack_args", PACK_ARGS)

    result = run(recipe, hub, *both, "--dry_run", "true")
    assert result.returncode == 0, result.stdout[-3000:]
    assert stages(result.stdout) == [("14", False), ("15", False)]
    assert hub.calls == []
    dry = recipe / "exp/hf_user_tiny"
    card = (dry / "README.md").read_text()
    for part in ("- One speaker only.", "license: cc-by-sa-3.0", "- en\n", "asterisk"):
        assert part in card
    assert "beam_size=1" in card

    result = run(recipe, hub, *both)
    assert result.returncode == 0, result.stdout[-3000:]
    assert stages(result.stdout) == [("14", True), ("15", False)]
    uploaded = dict(hub.files("user/tiny"))
    del uploaded[".gitattributes"]
    assert uploaded == {
        str(p.relative_to(dry)): p.read_bytes() for p in dry.rglob("*") if p.is_file()
    }
    result = run(recipe, hub, *both)
    assert stages(result.stdout) == [("14", True), ("15", True)]
    assert len(hub.repos["user/tiny"]) == 2

    hub.private.add("user/tiny")
    hub.faults["POST .*/commit/"] = 403
    result = run(recipe, hub, *both, "--upload_args", "--private true")
    assert result.returncode == 7
    assert "the token may not write there" in result.stdout
