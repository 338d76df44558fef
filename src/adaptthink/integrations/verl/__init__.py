"""AdaptThink on verl 0.9.1, by verl's own registries: no fork, nothing of verl's replaced.

plugin.py    what verl imports in each of its processes
loop.py      one response: forced mode, token limits, π_IS as data, graded
loss.py      the advantage and the loss, from objective.py
trainer.py   verl's synchronous trainer; checks each step and writes our metrics
probe.py     log P(no_think) on held-out problems
settings.py  our configuration → verl's settings (needs nothing of verl)
data.py      problems → verl's data set (needs nothing of verl)
"""
