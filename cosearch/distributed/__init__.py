"""Searches on Ray: evaluations as tasks, trainings as trials of Ray Tune, on one machine or many.

`cluster` connects, checks and counts what there is; `tasks` evaluates and prices in short tasks; `trials` trains under
Tune. Ray schedules, retries and moves data; proposals, results and files stay with the process that searches. Nothing
here is imported unless a run asks for Ray.
"""
