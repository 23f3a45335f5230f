from hypothesis import settings

settings.register_profile("unit", deadline=None)  # machines that run tests are busy, and imports are slow
settings.load_profile("unit")
