"""Many jobs from one: what is varied, the values of each, and where they go.

values    lists and ranges of one thing that is varied
expand    the combinations of several: crossed, or side by side
fillings  the graphs of the jobs of one batch, each nearly the same as the first
"""
