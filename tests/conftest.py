import hypothesis
import torch

# Tests run side by side on few cores: threads of one test that wait for those of another are slower than one thread.
torch.set_num_threads(1)

# No test depends on the clock: a busy machine may take its time for an example.
hypothesis.settings.register_profile("tessera", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tessera")

pytest_plugins = ["whole_run"]  # its fixtures: a corpus, a recipe, a finished run
