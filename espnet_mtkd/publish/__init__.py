"""Pack a student in the form of ESPnet's model zoo, and upload it to the Hub.

Archive, model card, search for traces of this machine, upload. What a model is worth
stands in `results`; nothing here trains or decodes.
"""
