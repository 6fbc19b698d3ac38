"""Run an s3prl upstream no further than the deepest hidden state that is asked for."""

import torch


class _Stop(Exception):
    pass


class EarlyStop:
    """Calls an upstream and leaves out the blocks that nobody asked for.

    s3prl's transformer upstreams collect their hidden states by forward hooks, one a
    block, in order. Hidden state k is mostly the input of block k, so it is taken
    before that block runs; where it is an output, the block runs and is the last.
    An upstream that can stop by itself says so by a method `stop_after(k)` (our Whisper
    does); one without hooks runs whole.

    Args:
        upstream: s3prl's `UpstreamBase` or the like, called with a list of waveforms.
        num_layers: hidden states that it gives.
        deepest: index of the deepest one asked for.
    """

    def __init__(self, upstream: torch.nn.Module, num_layers: int, deepest: int):
        self.upstream = upstream
        hooks = list(getattr(upstream, "hooks", []))
        self._module = None
        if deepest == num_layers - 1:
            return
        if hasattr(upstream, "stop_after"):
            upstream.stop_after(deepest)
        elif len(hooks) == num_layers:
            self._hook = hooks[deepest]
            module = eval(self._hook.module_path, {"self": upstream})
            if isinstance(module, torch.nn.Module):
                self._module = module

    def __call__(self, wavs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Waveforms (N_i,) -> hidden states 0 to at least the deepest, (B, T, E)."""
        if self._module is None:
            return list(self.upstream(wavs)["hidden_states"])
        handles = [
            self._module.register_forward_pre_hook(self._before),
            self._module.register_forward_hook(self._after),
        ]
        try:
            self.upstream(wavs)
        except _Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()
        hidden = [h for _, h in self.upstream._hook_hiddens]
        self.upstream._hook_hiddens.clear()
        return hidden

    def _before(self, module, args):
        try:
            hidden = self._hook.transform(args, None)
        except (TypeError, AttributeError, IndexError):
            return  # it is made of the block's output
        self.upstream._hook_hiddens.append((self._hook.unique_identifier, hidden))
        raise _Stop

    def _after(self, module, args, output):
        raise _Stop
