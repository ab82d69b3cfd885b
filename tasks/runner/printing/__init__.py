"""What ComfyUI prints while jobs run.

follower     looks at what the instance has printed, and writes it down (tasks.runner.runner)
attribution  which job a write is of, by its time (follower)
line_maker   writes as whole lines, cleaned and bounded (follower)
"""
