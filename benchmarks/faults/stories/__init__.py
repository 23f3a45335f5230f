"""Every story, by the file that tells it; importing a file puts its stories into `case.STORIES`."""
