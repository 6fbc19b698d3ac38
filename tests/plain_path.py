"""Best paths the plain way: one utterance, its whole lattice, a loop over frames."""

import torch

from espnet_mtkd.transducer.kd import choose_tokens


def plain_best_path(blank_TU, label_TU):
    """Viterbi: frames, positions and log-probability of the likeliest alignment."""
    T, columns = blank_TU.shape
    blank_TU, label_TU = blank_TU.double(), label_TU.double()
    sums_TU = torch.cat([blank_TU.new_zeros(T, 1), label_TU.cumsum(1)], 1)
    entries = torch.empty(T, columns, dtype=torch.long)
    entry = blank_TU.new_full((columns,), -torch.inf)
    entry[0] = 0.0
    for t in range(T):
        best, entries[t] = (entry - sums_TU[t]).cummax(0)
        entry = best + sums_TU[t] + blank_TU[t]
    frames, positions, u = [], [], columns - 1
    for t in range(T - 1, -1, -1):
        first = int(entries[t, u])
        positions += range(u, first - 1, -1)
        frames += [t] * (u - first + 1)
        u = first
    return torch.tensor(frames[::-1]), torch.tensor(positions[::-1]), float(entry[-1])


def plain_nodes(joint, h_TD, g_UD, labels_U, blank: int, num_tokens: int):
    """Nodes (N, 2 + k), int32, and log-probabilities (N, k), fp16, of one utterance."""
    logp_TUV = joint(h_TD[:, None], g_UD[None]).log_softmax(2)
    index_TU1 = labels_U[None, :, None].expand(len(h_TD), -1, 1)
    label_TU = logp_TUV[:, :-1].gather(2, index_TU1)[..., 0]
    frames, positions, _ = plain_best_path(logp_TUV[..., blank], label_TU)
    following = torch.cat([labels_U, labels_U.new_tensor([-1])])[positions]
    logp_NV = logp_TUV[frames, positions]
    ids, logp = choose_tokens(logp_NV, blank, following, num_tokens)
    nodes = torch.cat([frames[:, None], positions[:, None], ids], 1)
    return nodes.int(), logp.half()
