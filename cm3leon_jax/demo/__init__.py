"""The quickstart: the same functions as a pod's run, with small configs, stage by stage."""
