"""The process that trains: its device, the other ranks, how it was launched, requests to stop."""
