"""Teachers: frozen upstreams that give one or more embedding sequences each.

One interface (`base`), its back-ends, and where their weights come from (`fetch`).
Nothing of how targets are stored (`targets`) or learnt (`objective`, `pretraining`).
"""
