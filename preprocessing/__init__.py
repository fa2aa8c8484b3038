"""Before training: data set folder -> fingerprint -> plan -> preprocessed cases."""
