"""Pack a student in the form of ESPnet's model zoo, and upload it to the Hub."""
