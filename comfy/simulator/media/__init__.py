"""What simulated nodes make.

drawing          the picture a model would have made
images           pictures between nodes and Pillow, and PNG
containers       small files of kinds that need an encoder
sampling         the timing of a sampler
stand_ins        values in place of models, texts and latents
"""
