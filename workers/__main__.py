"""`python -m workers`: claim a job, run it, repeat."""

from workers.worker import main

if __name__ == "__main__":
    main()
