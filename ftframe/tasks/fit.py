def fit(cfg):
    print(cfg)
