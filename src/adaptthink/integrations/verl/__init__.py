"""AdaptThink on verl 0.9.1, by verl's own registries and a trainer class of its own: no fork, nothing patched.

plugin.py    what verl imports in each of its processes
loop.py      one response: forced mode, token limits, π_IS as data, graded
trainer.py   verl's synchronous trainer; a step's credit by the method, checks, our metrics
loss.py      the method's loss, as verl's engines call it
scoring.py   log-probabilities of given tokens, by verl's engines
probe.py     log P(no_think) on held-out problems
settings.py  our configuration → verl's settings (needs nothing of verl)
data.py      problems → verl's data set (needs nothing of verl)
"""
