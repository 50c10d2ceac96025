import torch

# Tests run side by side on few cores: threads of one test that wait for those of another are slower than one thread.
torch.set_num_threads(1)

pytest_plugins = ["whole_run"]  # its fixtures: a corpus, a recipe, a finished run
