"""Foundation models that a config of ESPnet has in it."""

from collections.abc import Iterator

ORDINARY_FRONTENDS = {None, "default", "sliding_window", "wav2vec_cnn"}
ORDINARY_ENCODERS = {
    None,
    *"transformer transformer_multispkr contextual_block_transformer".split(),
    *"conformer contextual_block_conformer multiconv_conformer".split(),
    *"branchformer e_branchformer longformer rnn vgg_rnn".split(),
}


def foundation_models(config: dict) -> list[tuple[str, str | None]]:
    """Upstream and checkpoint of each model that came trained.

    ESPnet's `s3prl` frontend nests its arguments once more (`frontend_conf:
    {frontend_conf: {upstream: ...}}`), its `fused` one has a list of them.

    Args:
        config: of `asr_train`.

    Returns:
        s3prl's or our name of the upstream, "unknown" where the config does not tell.
    """
    found = []
    for part, ordinary in (
        ("frontend", ORDINARY_FRONTENDS),
        ("encoder", ORDINARY_ENCODERS),
    ):
        kind, conf = config.get(part), config.get(f"{part}_conf") or {}
        models = list(_upstreams(conf))
        if kind == "whisper" and not models:
            size = str(conf.get("whisper_model", "small"))
            models = [(f"whisper_{size.replace('.', '_').replace('-', '_')}", None)]
        if kind == "huggingface" and conf.get("model"):
            models = [("hf_model", str(conf["model"]))]
        if kind not in ordinary and not models and kind != "fused":
            models = [("unknown", None)]
        found += models
    return list(dict.fromkeys(found))


def _upstreams(value) -> Iterator[tuple[str, str | None]]:
    """All `upstream` in nested arguments."""
    if isinstance(value, dict):
        if isinstance(value.get("upstream"), str):
            yield value["upstream"], value.get("path_or_url")
        for item in value.values():
            yield from _upstreams(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _upstreams(item)
