"""The ladder of results: rows from YAML, and the runs of mtkd.sh for them.

It reads no audio and trains nothing itself: it calls a recipe's `mtkd.sh`, and
`mtkd_report` for RESULTS.md.
"""
