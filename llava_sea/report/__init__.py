"""The report of a stage-1 run: what each patch says, before training and after.

`folder` finds the run's files, `measures` its numbers, `reading` its words; `grid_svg`, `chart_svg`
and `page` make the HTML, `pngs` the pictures beside it. ``python -m llava_sea.report`` does it all.
"""
