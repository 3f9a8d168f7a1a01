"""Progress in [0, 1] to a multiplier. One file a schedule.

Boundaries are shares of the stage, so that one schedule serves stages of any length.  The first step has progress 0
and the last has one step less than 1: the value at 1 is what a schedule falls towards.  Every stage starts its schedule
(and its optimizer) afresh; a stage that was killed goes on at the place of its curve where it stopped.

A schedule with a warm-up of its own starts at exactly 0 and begins what follows after it.  ``train.warmup`` instead
multiplies whatever the schedule says by a ramp whose first step is not 0.  A stage may have one of the two.
"""
