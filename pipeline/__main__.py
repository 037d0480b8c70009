from pipeline.app.forkserver import hand_over

if __name__ == "__main__":
    hand_over()
    from pipeline.cli import main

    main()
