"""From problems to responses: engines, requests, and how responses are read."""
