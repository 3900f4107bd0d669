package device

import "fmt"

// Error is an error about which something can be done. What that is, a front end
// says in its own words and language: it knows them by Advice, and puts in Args.
type Error struct {
	Err    error
	Advice Advice
	Args   []any
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Advice names what can be done about an error.
type Advice string

// Behind each, what Args are.
const (
	InstallFirst   Advice = "install first"      // what to install
	InstallAny     Advice = "install an app"     //
	UpdateInstead  Advice = "update instead"     // what to update to
	NameApp        Advice = "name the app"       // it is wrong usage
	NameNewApp     Advice = "name the new app"   // it is wrong usage
	NameBundle     Advice = "name a bundle"      // it is wrong usage
	Wait           Advice = "wait"               //
	SeeStatus      Advice = "see the status"     //
	Again          Advice = "try again"          //
	AddTrust       Advice = "add trust"          //
	NameSigner     Advice = "name the signer"    //
	NameAdopted    Advice = "name its signer"    // of an app that is adopted
	ListSigners    Advice = "list signers"       //
	RotateInstead  Advice = "rotate instead"     //
	WritePolicy    Advice = "write a policy"     //
	NameSource     Advice = "name a source"      //
	DataGone       Advice = "data are gone"      //
	ChooseData     Advice = "choose the data"    // it is wrong usage
	ListBackups    Advice = "list backups"       //
	BringEngine    Advice = "bring an engine"    // how, as host.NoEngineError says
	SeeEngineLog   Advice = "see the engine log" //
	MakeGroup      Advice = "make the group"     // its name
	EditEnv        Advice = "edit the file"      //
	TakeOver       Advice = "take over"          // directory of the app, the compose project that is in the way
	RepairRecords  Advice = "repair records"     //
	UnmetCondition Advice = "unmet condition"    // the release is refused
)

// What can be done about a Finding.
const (
	StartEngine    Advice = "start the engine"         //
	MakeMissing    Advice = "make what is missing"     //
	RaiseEngine    Advice = "raise the engine"         //
	BringCompose   Advice = "bring compose"            //
	SeeDisk        Advice = "see the disk"             //
	MakeRoom       Advice = "make room"                //
	SetClock       Advice = "set the clock"            //
	RestoreTrust   Advice = "restore the policy"       // the file
	MendFile       Advice = "fix the file"             // the file
	RepairIt       Advice = "rebuild records"          //
	ApplyIt        Advice = "apply it"                 //
	SeeLogs        Advice = "see the logs"             //
	MendCause      Advice = "fix the cause"            //
	RecoverIt      Advice = "recover it"               //
	InstallAgain   Advice = "install again"            //
	InstallIt      Advice = "install it"               //
	MendLink       Advice = "fix the link"             // directory of the release, the link
	PutUnitsBack   Advice = "put units back"           // version
	WriteAnew      Advice = "rewrite files"            // version
	PutBack        Advice = "put back"                 // version
	NoWayBack      Advice = "no way back"              //
	SwitchMends    Advice = "a switch fixes it"        //
	VerifiedNext   Advice = "the next is verified"     //
	RestoreEnv     Advice = "restore the environment"  // the file
	HideFile       Advice = "hide the file"            // the file
	WriteKeys      Advice = "write keys and values"    //
	RestartDaemon  Advice = "restart the daemon"       //
	NameDrop       Advice = "name the folder"          // where to, the configuration, the folder
	OwnAbove       Advice = "own what is above"        //
	MoveAway       Advice = "move it away"             //
	ShutFolder     Advice = "shut the folder"          // the folder
	OwnFolder      Advice = "own the folder"           // the folder
	StickFolder    Advice = "make it sticky"           // the folder
	AskFleet       Advice = "ask the fleet's operator" //
	SeeNetwork     Advice = "see the network"          // the configuration
	PublishRollout Advice = "publish a rollout file"   // the configuration
	EnableEngine   Advice = "enable the engine"        //
	EnableRecovery Advice = "enable recovery"          // the unit
	PutInstaller   Advice = "put the installer there"  //
	RecoveryAnew   Advice = "recovery is rewritten"    // the unit
	SetUpAgain     Advice = "set up again"             //
	SetUpUnit      Advice = "set up the unit"          // the unit
	SeeUnit        Advice = "see the unit"             // the unit
	EnableUnit     Advice = "enable the unit"          // the unit
	RestartUnit    Advice = "restart the unit"         // the unit, the unit again
)

func advise(err error, a Advice, args ...any) error { return &Error{err, a, args} }

// UsageError says that what was asked for cannot be meant.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

func usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// AttentionError says that the way back failed too.
type AttentionError struct{ Err error }

func (e *AttentionError) Error() string { return "the rollback failed too: " + e.Err.Error() }
func (e *AttentionError) Unwrap() error { return e.Err }

// EnvError says which required keys of the environment file have no value.
type EnvError struct {
	Err  error             // an *installer.MissingEnvError
	File string            // the environment file
	Keys []string          // without a value
	Help map[string]string // what some of them are for
}

func (e *EnvError) Error() string { return e.Err.Error() }
func (e *EnvError) Unwrap() error { return e.Err }
