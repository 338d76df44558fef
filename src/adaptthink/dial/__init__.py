"""The dial: from which P(no_think) on a model answers without thinking."""
