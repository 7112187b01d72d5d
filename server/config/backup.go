package config

import "errors"

// validateBackups refuses what is of no use without the rest. Whether a schedule can be read, and a directory be written, is seen when they are opened.
func (o *Options) validateBackups() error {
	if o.BackupSchedule == "" {
		for _, f := range []struct {
			name  string
			given bool
		}{
			{"backup-dir", o.BackupDir != ""}, {"backup-s3-bucket", o.BackupS3Bucket != ""},
			{"backup-keep", o.BackupKeep != 0}, {"backup-keep-for", o.BackupKeepFor != 0},
		} {
			if f.given {
				return errors.New("--" + f.name + " is given, and no --backup-schedule")
			}
		}
		return nil
	}
	return o.ValidateBackupTarget()
}

// ValidateBackupTarget refuses all but one place for backups, and what to keep there that cannot be. Validate includes it if there is a schedule.
func (o *Options) ValidateBackupTarget() error {
	switch {
	case o.BackupDir == "" && o.BackupS3Bucket == "":
		return errors.New("backups need a place: --backup-dir or --backup-s3-bucket")
	case o.BackupDir != "" && o.BackupS3Bucket != "":
		return errors.New("--backup-dir and --backup-s3-bucket are both given: backups have one place")
	case o.BackupKeep < 0:
		return errors.New("--backup-keep is negative")
	case o.BackupKeepFor < 0:
		return errors.New("--backup-keep-for is negative")
	}
	return nil
}
