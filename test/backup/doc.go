// Package backup has the drills of backups: servers under load that make them by themselves, into a directory and into a real S3 server, killed in the middle,
// followed by others; and what was made is restored and compared with what was there.
package backup
