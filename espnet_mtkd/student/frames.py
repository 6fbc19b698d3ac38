"""When a student's frames are: their shift, and how far they are behind the audio."""

import torch


def describe_latency(encoder, frame_shift: int, target_delay: int) -> str:
    """How far behind the audio a student is, as a line for the log.

    Args:
        encoder: ESPnet's, contextual-block or other.
        frame_shift: samples between its frames.
        target_delay: frames.
    """
    ms = frame_shift / 16
    delay = f"target delay {target_delay} frames ({target_delay * ms:g} ms)"
    if not getattr(encoder, "block_size", 0):
        return f"one frame each {ms:g} ms, hears the whole utterance; {delay}"
    parts = ", ".join(
        f"{name} {num} frames ({num * ms:g} ms)"
        for name, num in (
            ("block", encoder.block_size),
            ("hop", encoder.hop_size),
            ("look-ahead", encoder.look_ahead),
        )
    )
    # The first frame of a hop waits for the rest of it, the last for none.
    least = (encoder.look_ahead + target_delay) * ms
    most = least + (encoder.hop_size - 1) * ms
    return (
        f"one frame each {ms:g} ms, {parts}; {delay}: {least:g} to {most:g} ms in all"
    )


@torch.no_grad()
def measure_frame_shift(frontend, encoder, preencoder=None, device="cpu") -> int:
    """Samples between two encoder frames, found by running 1 s and 3 s of noise."""
    modules = [m for m in (frontend, preencoder, encoder) if m is not None]
    were_training = [m.training for m in modules]
    frames = []
    for num_samples in (16000, 48000):
        x = torch.linspace(-1, 1, num_samples, device=device)[None].sin()
        lengths = torch.tensor([num_samples], device=device)
        for module in modules:
            x, lengths, *_ = module.eval()(x, lengths)
        frames.append(int(lengths[0]))
    for module, was_training in zip(modules, were_training, strict=True):
        module.train(was_training)
    return round(32000 / (frames[1] - frames[0]))
