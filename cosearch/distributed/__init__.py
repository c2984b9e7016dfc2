"""Searches on Ray: evaluations as tasks, trainings as trials of Ray Tune, on one machine or many.

`connection` starts or finds Ray, `cluster` counts what there is; `tasks` evaluates and prices in short tasks, `trials`
and `training` train under Tune; `workers` is all of it, as a run sees it. Ray schedules, retries and moves data;
proposals, results and files stay with the process that searches. Nothing here is imported unless a run asks for Ray.
"""
